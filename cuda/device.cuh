// What CUDA C++ has no words for: 16-bit floats without a header, asynchronous copies, matrix
// instructions. The only file with inline assembly; the tests put an emulation in its place, so
// everything else that a kernel does to the device is CUDA C++ proper.
#pragma once

namespace masktools {

using Word = unsigned int;

// The architecture that is compiled for, 750 for sm_75. What it lacks fails to compile where a
// kernel uses it, and only there.
constexpr int ARCHITECTURE = __CUDA_ARCH__;

// An IEEE 754 binary16, as it lies in memory; computed with as float.
struct Half {
  unsigned short bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }

__device__ __forceinline__ float to_float(Half x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}

// Rounds to nearest, ties to even.
template <class T>
__device__ __forceinline__ T from_float(float x);

template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}

template <>
__device__ __forceinline__ Half from_float<Half>(float x) {
  Half y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}

// The bits of x rounded to the 10 bits of mantissa that tf32 has: nearest, ties away from zero.
template <int ARCH = ARCHITECTURE>
__device__ __forceinline__ Word round_tf32(float x) {
  static_assert(ARCH >= 800, "tf32 needs sm_80");
  Word y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}

// COUNT numbers that lie together, moved by one instruction; memory must be aligned to them all.
template <class T, int COUNT>
struct alignas(sizeof(T) * COUNT) Vector {
  T at[COUNT];
};

namespace detail {

template <int BYTES>
struct Bits;
template <>
struct Bits<2> {
  using Type = unsigned short;
};
template <>
struct Bits<4> {
  using Type = unsigned int;
};
template <>
struct Bits<8> {
  using Type = uint2;
};
template <>
struct Bits<16> {
  using Type = uint4;
};

__device__ __forceinline__ Word shared_address(const void* shared) {
  return static_cast<Word>(__cvta_generic_to_shared(shared));
}

}  // namespace detail

// Reads COUNT numbers that nothing writes while the kernel runs.
template <class T, int COUNT>
__device__ __forceinline__ Vector<T, COUNT> read(const T* global) {
  using Bits = typename detail::Bits<sizeof(T) * COUNT>::Type;
  const Bits bits = __ldg(reinterpret_cast<const Bits*>(global));
  return *reinterpret_cast<const Vector<T, COUNT>*>(&bits);
}

// Writes COUNT numbers of global memory.
template <class T, int COUNT>
__device__ __forceinline__ void write(T* global, const Vector<T, COUNT>& numbers) {
  *reinterpret_cast<Vector<T, COUNT>*>(global) = numbers;
}

// Reads or writes COUNT numbers of shared memory.
template <class T, int COUNT>
__device__ __forceinline__ Vector<T, COUNT>& vector(T* memory) {
  return *reinterpret_cast<Vector<T, COUNT>*>(memory);
}

template <class T, int COUNT>
__device__ __forceinline__ const Vector<T, COUNT>& vector(const T* memory) {
  return *reinterpret_cast<const Vector<T, COUNT>*>(memory);
}

// The block's dynamic shared memory, aligned to 128 bytes.
__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}

// Starts to copy 4 or 16 bytes from global to shared memory, both aligned to as many. They have
// arrived once their group was waited for, and other threads see them after a barrier.
template <int BYTES, int ARCH = ARCHITECTURE>
__device__ __forceinline__ void copy_async(void* shared, const void* global) {
  static_assert(ARCH >= 800, "cp.async needs sm_80");
  static_assert(BYTES == 4 || BYTES == 16, "cp.async copies 4 or 16 bytes here");
  if constexpr (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(detail::shared_address(shared)),
                 "l"(global)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(detail::shared_address(shared)),
                 "l"(global)
                 : "memory");
  }
}

// Makes a group of the copies that this thread started since the last group; it may be empty.
template <int ARCH = ARCHITECTURE>
__device__ __forceinline__ void close_group() {
  static_assert(ARCH >= 800, "cp.async needs sm_80");
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most PENDING of this thread's groups are under way, the latest ones.
template <int PENDING, int ARCH = ARCHITECTURE>
__device__ __forceinline__ void wait_groups() {
  static_assert(ARCH >= 800, "cp.async needs sm_80");
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// sums += a b for a 16x8 tile of a warp, over 8 columns in tf32. With g = lane / 4, t = lane % 4:
// a holds (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4); b holds (t, g), (t + 4, g); sums holds
// (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
template <int ARCH = ARCHITECTURE>
__device__ __forceinline__ void multiply_tf32(float (&sums)[4], const Word (&a)[4],
                                              const Word (&b)[2]) {
  static_assert(ARCH >= 800, "tf32 needs sm_80");
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// sums += a b for a 16x8 tile of a warp, over 16 columns in float16, two numbers a word: a holds
// (g, 2t..), (g + 8, 2t..), (g, 2t + 8..), (g + 8, 2t + 8..); b holds (2t.., g), (2t + 8.., g);
// sums as above. sm_75 has the instruction for 8 columns only, whose operands are those of the
// first and of the second half.
template <int ARCH = ARCHITECTURE>
__device__ __forceinline__ void multiply_half(float (&sums)[4], const Word (&a)[4],
                                              const Word (&b)[2]) {
  static_assert(ARCH >= 750, "matrix products of this shape need sm_75");
  if constexpr (ARCH >= 800) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      asm volatile(
          "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
          "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
          : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
          : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
    }
  }
}

// Reads four 8x8 matrices of 16-bit numbers from shared memory, transposed: lane 8 m + r gives
// where row r of matrix m lies, 16 bytes; words[m] gets rows 2t and 2t + 1 of column g.
template <int ARCH = ARCHITECTURE>
__device__ __forceinline__ void read_transposed(Word (&words)[4], const void* shared) {
  static_assert(ARCH >= 750, "ldmatrix needs sm_75");
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(detail::shared_address(shared))
               : "memory");
}

}  // namespace masktools
