// Vectors of floats as wide as the variant that is compiled: the one place that knows how wide.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace masktools {

// The variant's name, the floats of a vector, and how many vectors the processor's registers hold.
#if defined(__AVX512F__)
constexpr char kIsa[] = "avx512";
constexpr int kLanes = 16;
constexpr int kRegisters = 32;
#elif defined(__AVX2__)
constexpr char kIsa[] = "avx2";
constexpr int kLanes = 8;
constexpr int kRegisters = 16;
#elif defined(__aarch64__)
constexpr char kIsa[] = "portable";
constexpr int kLanes = 4;
constexpr int kRegisters = 32;
#else
constexpr char kIsa[] = "portable";
constexpr int kLanes = 4;
constexpr int kRegisters = 16;
#endif

typedef float Vector __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t IntVector __attribute__((vector_size(4 * kLanes)));

// Loads and stores are of any alignment.
inline Vector load(const float* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline IntVector load(const std::int32_t* from) {
  IntVector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

inline void store(float* to, Vector v) { std::memcpy(to, &v, sizeof v); }

// The first `lanes` lanes, 0 to kLanes, and zeros: the memory behind them is not read.
inline Vector load(const float* from, std::int64_t lanes) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vector>(
      _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << lanes) - 1), from));
#elif defined(__AVX2__)
  const IntVector index = {0, 1, 2, 3, 4, 5, 6, 7};
  const IntVector mask = index < static_cast<std::int32_t>(lanes);
  return reinterpret_cast<Vector>(_mm256_maskload_ps(from, reinterpret_cast<__m256i>(mask)));
#else
  Vector v = {};
  for (std::int64_t i = 0; i < lanes; ++i) v[i] = from[i];
  return v;
#endif
}

// Lanes [first, last), with 0 <= first and last <= kLanes, and zeros: the memory beside them is not
// read.
inline Vector load(const float* from, std::int64_t first, std::int64_t last) {
#if defined(__AVX512F__)
  const std::uint32_t mask = ((1u << last) - 1) & ~((1u << first) - 1);
  return reinterpret_cast<Vector>(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from));
#elif defined(__AVX2__)
  const IntVector index = {0, 1, 2, 3, 4, 5, 6, 7};
  const IntVector mask =
      (index >= static_cast<std::int32_t>(first)) & (index < static_cast<std::int32_t>(last));
  return reinterpret_cast<Vector>(_mm256_maskload_ps(from, reinterpret_cast<__m256i>(mask)));
#else
  Vector v = {};
  for (std::int64_t i = first; i < last; ++i) v[i] = from[i];
  return v;
#endif
}

// The larger and the smaller; b where either is NaN. Compilers make two instructions of the
// comparison and the choice. GCC 12 warns of what the intrinsics without a mask leave undefined.
inline Vector larger(Vector a, Vector b) {
#if defined(__AVX512F__)
  const auto other = reinterpret_cast<__m512>(b);
  return reinterpret_cast<Vector>(
      _mm512_mask_max_ps(other, 0xffff, reinterpret_cast<__m512>(a), other));
#elif defined(__AVX2__)
  return reinterpret_cast<Vector>(
      _mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#else
  return a > b ? a : b;
#endif
}

inline Vector smaller(Vector a, Vector b) {
#if defined(__AVX512F__)
  const auto other = reinterpret_cast<__m512>(b);
  return reinterpret_cast<Vector>(
      _mm512_mask_min_ps(other, 0xffff, reinterpret_cast<__m512>(a), other));
#elif defined(__AVX2__)
  return reinterpret_cast<Vector>(
      _mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#else
  return a < b ? a : b;
#endif
}

template <class V>
inline V larger(V a, V b) {
  return a > b ? a : b;
}

template <class V>
inline V smaller(V a, V b) {
  return a < b ? a : b;
}

// Less zero, not plus zero: that keeps every value, -0 too, and so leaves nothing to compute.
inline Vector broadcast(float value) { return value - Vector{}; }

// Whether no lane is infinite or NaN.
inline bool is_finite(Vector v) {
  const Vector zero = v - v;  // NaN where it is not
#if defined(__AVX512F__)
  const auto packed = reinterpret_cast<__m512>(zero);
  return _mm512_cmp_ps_mask(packed, packed, _CMP_UNORD_Q) == 0;
#elif defined(__AVX2__)
  const auto packed = reinterpret_cast<__m256>(zero);
  return _mm256_movemask_ps(_mm256_cmp_ps(packed, packed, _CMP_UNORD_Q)) == 0;
#else
  float sum = 0.0f;
  for (int i = 0; i < kLanes; ++i) sum += zero[i];
  return sum == 0.0f;
#endif
}

inline float reciprocal(float x) { return 1.0f / x; }

// 1 / x to within two units in the last place, for x from 1e-37 to 1e37.
inline Vector reciprocal(Vector v) {
#if defined(__AVX512F__)
  const auto wide = reinterpret_cast<__m512>(v);
  const Vector near = reinterpret_cast<Vector>(_mm512_mask_rcp14_ps(wide, 0xffff, wide));
  return near + near * (1.0f - v * near);  // A step of Newton's: a division takes as long as ten.
#else
  return 1.0f / v;
#endif
}

inline float square_root(float x) { return __builtin_sqrtf(x); }

inline Vector square_root(Vector v) {
  for (int i = 0; i < kLanes; ++i) v[i] = __builtin_sqrtf(v[i]);
  return v;
}

// Stores the first `lanes` lanes, 0 to kLanes, and leaves the memory behind them alone: another
// thread may write there. Compilers make no masked store of a loop over lanes, hence intrinsics.
inline void store(float* to, Vector v, std::int64_t lanes) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << lanes) - 1), reinterpret_cast<__m512>(v));
#elif defined(__AVX2__)
  const IntVector index = {0, 1, 2, 3, 4, 5, 6, 7};
  const IntVector mask = index < static_cast<std::int32_t>(lanes);
  _mm256_maskstore_ps(to, reinterpret_cast<__m256i>(mask), reinterpret_cast<__m256>(v));
#else
  for (std::int64_t i = 0; i < lanes; ++i) to[i] = v[i];
#endif
}

// A vector of ones in all bits, and one of zeros behind it: masks of any number of lanes.
struct Ones {
  std::int32_t of[2 * kLanes] = {};

  constexpr Ones() {
    for (int i = 0; i < kLanes; ++i) of[i] = -1;
  }
};

// The first `lanes` lanes, 0 to kLanes, and zeros.
inline Vector first(Vector v, std::int64_t lanes) {
  static constexpr Ones kOnes = Ones();
  return reinterpret_cast<Vector>(reinterpret_cast<IntVector>(v) & load(kOnes.of + kLanes - lanes));
}

}  // namespace masktools
