// Stands in for cuda/device.cuh: the same names, emulated. Comments there say what they do.
#pragma once

namespace masktools {

using Word = unsigned int;
constexpr int ARCHITECTURE = EMULATED_ARCHITECTURE;

struct Half {
  unsigned short bits;
};

inline float to_float(float x) { return x; }

inline float to_float(Half x) {
  const int exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
  const float size = exponent == 0    ? std::ldexp(float(mantissa), -24)
                     : exponent == 31 ? (mantissa ? NAN : INFINITY)
                                      : std::ldexp(float(mantissa + 1024), exponent - 25);
  return x.bits & 0x8000 ? -size : size;
}

template <class T>
T from_float(float x);

template <>
inline float from_float<float>(float x) {
  return x;
}

template <>
inline Half from_float<Half>(float x) {
  const unsigned short sign = std::signbit(x) ? 0x8000 : 0;
  const float size = std::fabs(x);
  if (std::isnan(x)) return {0x7fff};
  if (size >= 65520) return {static_cast<unsigned short>(sign | 0x7c00)};
  int exponent = size < 0x1p-14f ? -14 : std::ilogb(size);
  const int mantissa = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  // A mantissa that was rounded up to the next power of two carries into the exponent by itself.
  const int bits = size < 0x1p-14f ? mantissa : ((exponent + 14) << 10) + mantissa;
  return {static_cast<unsigned short>(sign | bits)};
}

template <int ARCH = ARCHITECTURE>
Word round_tf32(float x) {
  static_assert(ARCH >= 800, "tf32 needs sm_80");
  Word bits;
  memcpy(&bits, &x, 4);
  if (std::isnan(x)) return 0x7fffffff;
  return std::isinf(x) ? bits : (bits + 0x1000) & 0xffffe000u;
}

template <class T, int COUNT>
struct alignas(sizeof(T) * COUNT) Vector {
  T at[COUNT];
};

template <class T, int COUNT>
Vector<T, COUNT> read(const T* global) {
  emulator::check(global, sizeof(T) * COUNT, "a read");
  Vector<T, COUNT> value;
  memcpy(&value, global, sizeof value);
  return value;
}

template <class T, int COUNT>
void write(T* global, const Vector<T, COUNT>& numbers) {
  emulator::check(global, sizeof numbers, "a write");
  memcpy(global, &numbers, sizeof numbers);
}

template <class T, int COUNT>
Vector<T, COUNT>& vector(T* memory) {
  if (reinterpret_cast<uintptr_t>(memory) % (sizeof(T) * COUNT)) {
    emulator::fail("an access is misaligned");
  }
  return *reinterpret_cast<Vector<T, COUNT>*>(memory);
}

template <class T, int COUNT>
const Vector<T, COUNT>& vector(const T* memory) {
  return vector<T, COUNT>(const_cast<T*>(memory));
}

inline unsigned char* dynamic_shared() {
  return reinterpret_cast<unsigned char*>(emulator::device().shared);
}

template <int BYTES, int ARCH = ARCHITECTURE>
void copy_async(void* shared, const void* global) {
  static_assert(ARCH >= 800, "cp.async needs sm_80");
  static_assert(BYTES == 4 || BYTES == 16, "cp.async copies 4 or 16 bytes here");
  emulator::check(global, BYTES, "a copy");
  if (reinterpret_cast<uintptr_t>(shared) % BYTES) emulator::fail("a copy is misaligned");
  if (!emulator::in_shared(shared, BYTES)) emulator::fail("a copy leaves shared memory");
  if (emulator::device().copies_land_early) {
    memcpy(shared, global, BYTES);
  } else {
    emulator::device().current->open.push_back({shared, global, BYTES});
  }
}

template <int ARCH = ARCHITECTURE>
void close_group() {
  static_assert(ARCH >= 800, "cp.async needs sm_80");
  emulator::Fiber& me = *emulator::device().current;
  me.groups.push_back(std::move(me.open));
  me.open.clear();
}

template <int PENDING, int ARCH = ARCHITECTURE>
void wait_groups() {
  static_assert(ARCH >= 800, "cp.async needs sm_80");
  auto& groups = emulator::device().current->groups;
  while (groups.size() > PENDING) {
    for (const emulator::Copy& copy : groups.front()) memcpy(copy.to, copy.from, copy.bytes);
    groups.erase(groups.begin());
  }
}

namespace detail {

struct Operands {
  Word a[4], b[2];
};

inline float as_tf32(Word bits) {
  bits &= 0xffffe000u;  // the hardware does not look at the rest
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

inline float half_of(Word words, int which) {
  return to_float(Half{static_cast<unsigned short>(which ? words >> 16 : words & 0xffff)});
}

// Adds to what a lane holds of a 16x8 product; a(row, k) and b(k, column) give the operands.
template <class A, class B>
void accumulate(float (&sums)[4], int depth, A a, B b) {
  const unsigned lane = emulator::device().current->lane;
  for (int i = 0; i < 4; i++) {
    float sum = 0;
    for (int k = 0; k < depth; k++) sum += a(lane / 4 + i / 2 * 8, k) * b(k, lane % 4 * 2 + i % 2);
    sums[i] += sum;
  }
}

}  // namespace detail

template <int ARCH = ARCHITECTURE>
void multiply_tf32(float (&sums)[4], const Word (&a)[4], const Word (&b)[2]) {
  static_assert(ARCH >= 800, "tf32 needs sm_80");
  using detail::Operands;
  emulator::show(Operands{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, -1);
  detail::accumulate(
      sums, 8,
      [](int row, int k) {
        const Operands from = emulator::shown<Operands>(row % 8 * 4 + k % 4);
        return detail::as_tf32(from.a[row / 8 + k / 4 * 2]);
      },
      [](int k, int column) {
        return detail::as_tf32(emulator::shown<Operands>(column * 4 + k % 4).b[k / 4]);
      });
}

template <int ARCH = ARCHITECTURE>
void multiply_half(float (&sums)[4], const Word (&a)[4], const Word (&b)[2]) {
  static_assert(ARCH >= 750, "matrix products of this shape need sm_75");
  using detail::Operands;
  emulator::show(Operands{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, -2);
  detail::accumulate(
      sums, 16,
      [](int row, int k) {
        const Operands from = emulator::shown<Operands>(row % 8 * 4 + k % 8 / 2);
        return detail::half_of(from.a[row / 8 + k / 8 * 2], k % 2);
      },
      [](int k, int column) {
        const Operands from = emulator::shown<Operands>(column * 4 + k % 8 / 2);
        return detail::half_of(from.b[k / 8], k % 2);
      });
}

template <int ARCH = ARCHITECTURE>
void read_transposed(Word (&words)[4], const void* shared) {
  static_assert(ARCH >= 750, "ldmatrix needs sm_75");
  if (reinterpret_cast<uintptr_t>(shared) % 16) emulator::fail("a matrix is misaligned");
  if (!emulator::in_shared(shared, 16)) emulator::fail("a matrix lies outside of shared memory");
  emulator::show(shared, -3);
  const unsigned lane = emulator::device().current->lane;
  for (unsigned matrix = 0; matrix < 4; matrix++) {
    unsigned short pair[2];
    for (unsigned i = 0; i < 2; i++) {
      const void* row = emulator::shown<const void*>(matrix * 8 + lane % 4 * 2 + i);
      memcpy(&pair[i], static_cast<const char*>(row) + lane / 4 * 2, 2);
    }
    words[matrix] = pair[0] | static_cast<Word>(pair[1]) << 16;
  }
}

}  // namespace masktools

// Kernels are compiled without the headers that define these.
#undef INFINITY
#undef NAN
#undef HUGE_VALF
