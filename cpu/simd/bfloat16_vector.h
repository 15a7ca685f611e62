// Vectors of bfloat16 in memory, of floats in registers.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd/bfloat16.h"
#include "simd/vector.h"

namespace masktools {

typedef std::uint16_t HalfVector __attribute__((vector_size(2 * kLanes)));
typedef std::uint32_t WordVector __attribute__((vector_size(4 * kLanes)));

inline Vector widened(HalfVector bits) {
  return reinterpret_cast<Vector>(__builtin_convertvector(bits, WordVector) << 16);
}

// Loads and stores are of any alignment.
inline Vector load(const Bfloat16* from) {
  HalfVector bits;
  std::memcpy(&bits, from, sizeof bits);
  return widened(bits);
}

// The first `lanes` lanes, 0 to kLanes, and zeros: the memory behind them is not read.
inline Vector load(const Bfloat16* from, std::int64_t lanes) {
  HalfVector bits = {};
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  bits = reinterpret_cast<HalfVector>(
      _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << lanes) - 1), from));
#else
  std::memcpy(&bits, from, sizeof(Bfloat16) * static_cast<std::size_t>(lanes));
#endif
  return widened(bits);
}

// As Bfloat16(float) rounds.
inline HalfVector rounded(Vector v) {
  const WordVector word = reinterpret_cast<WordVector>(v);
  const WordVector number = word + 0x7fff + ((word >> 16) & 1);
  const WordVector quiet = word | 0x00400000;
  return __builtin_convertvector((v != v ? quiet : number) >> 16, HalfVector);
}

inline void store(Bfloat16* to, Vector v) {
  const HalfVector bits = rounded(v);
  std::memcpy(to, &bits, sizeof bits);
}

// Stores the first `lanes` lanes, 0 to kLanes, and leaves the memory behind them alone.
inline void store(Bfloat16* to, Vector v, std::int64_t lanes) {
  const HalfVector bits = rounded(v);
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  _mm256_mask_storeu_epi16(to, static_cast<__mmask16>((1u << lanes) - 1),
                           reinterpret_cast<__m256i>(bits));
#else
  std::memcpy(to, &bits, sizeof(Bfloat16) * static_cast<std::size_t>(lanes));
#endif
}

}  // namespace masktools
