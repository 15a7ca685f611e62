// What a device can do at most, one unit at a time. Compiled behind cuda/device.cuh.
//
// Each kernel repeats its work `times` over and writes a number that depends on all of it, so that
// nothing can be left out. Blocks of 256.

using namespace masktools;

// Reads a buffer that fits the second level of the cache, 16 bytes a thread. `mask`: its length in
// float4, a power of two, less one. The caller counts 16 bytes for each thread and time.
extern "C" __global__ void __launch_bounds__(256)
    read_cached(const float4* buffer, float* out, int mask, int times) {
  int at = blockIdx.x * blockDim.x + threadIdx.x;
  float sum = 0;
#pragma unroll 8
  for (int i = 0; i < times; i++) {
    // Past the first level: it would answer instead.
    const float4 value = __ldcg(buffer + (at & mask));
    sum += value.x + value.y + value.z + value.w;
    at += gridDim.x * blockDim.x + 32;
  }
  if (sum == 1.5f) out[0] = sum;
}

// 64 independent chains of multiply-adds; 128 operations for each thread and time.
extern "C" __global__ void __launch_bounds__(256) multiply_add(float* out, float by, int times) {
  float sums[64];
#pragma unroll
  for (int j = 0; j < 64; j++) sums[j] = threadIdx.x + j;
  for (int i = 0; i < times; i++) {
#pragma unroll
    for (int j = 0; j < 64; j++) sums[j] = sums[j] * by + 1.0f;
  }
  float sum = 0;
#pragma unroll
  for (int j = 0; j < 64; j++) sum += sums[j];
  if (sum == 1.5f) out[0] = sum;
}

// Eight independent products of a warp, all of the same operands.
using Multiply = void(float (&sums)[4], const Word (&a)[4], const Word (&b)[2]);

template <Multiply* MULTIPLY>
__device__ __forceinline__ void tensor(float* out, int times) {
  Word a[4], b[2];
  float sums[8][4] = {};
  for (int i = 0; i < 4; i++) a[i] = threadIdx.x + i;
  for (int i = 0; i < 2; i++) b[i] = threadIdx.x + i;
  for (int i = 0; i < times; i++) {
#pragma unroll
    for (int j = 0; j < 8; j++) MULTIPLY(sums[j], a, b);
  }
  float sum = 0;
#pragma unroll
  for (int j = 0; j < 8; j++) sum += sums[j][0] + sums[j][1] + sums[j][2] + sums[j][3];
  if (sum == 1.5f) out[0] = sum;
}

#if __CUDA_ARCH__ >= 750
// Products of 16 x 8 x 16; 8 * 4096 operations for each warp and time.
extern "C" __global__ void __launch_bounds__(256) tensor_half(float* out, int times) {
  tensor<multiply_half<>>(out, times);
}
#endif

#if __CUDA_ARCH__ >= 800
// Products of 16 x 8 x 8; 8 * 2048 operations for each warp and time.
extern "C" __global__ void __launch_bounds__(256) tensor_tf32(float* out, int times) {
  tensor<multiply_tf32<>>(out, times);
}
#endif
