// Sums along axes of a value: the mean, and softmax or its logarithm.
//
// Launch: blocks of (X, Y) threads with X * Y <= THREADS and Y a power of two; X neighbouring rows,
// each shared by Y threads. A row is what is summed, wherever it lies; grid: ceil(rows / X).
#include "device.cuh"
#include "walk.cuh"

namespace masktools {

constexpr int THREADS = 256;

// What a row holds: sizes and strides of up to two axes. By value.
struct Row {
  int sizes[2];
  int x[2], y[2];  // strides; the mean uses those of x alone
};

struct Add {
  __device__ __forceinline__ static float join(float a, float b) { return a + b; }
};

struct Larger {  // of two numbers, a NaN where either is
  __device__ __forceinline__ static float join(float a, float b) { return a > b || a != a ? a : b; }
};

// Returns what the threads of a row make together, to each of them, always in the same order.
template <class Joining>
__device__ __forceinline__ float together(float* shared, float mine) {
  const int at = threadIdx.y * blockDim.x + threadIdx.x;
  shared[at] = mine;
  __syncthreads();
  for (int half = blockDim.y / 2; half > 0; half /= 2) {
    if (threadIdx.y < half) {
      shared[at] = Joining::join(shared[at], shared[at + half * blockDim.x]);
    }
    __syncthreads();
  }
  const float all = shared[threadIdx.x];
  __syncthreads();
  return all;
}

// Strides of the walk over rows: of y, x.
template <class T>
__device__ __forceinline__ void mean(const T* x, T* y, const Walk<2>& rows, const Row& row) {
  __shared__ float shared[THREADS];
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  int at[2];
  step_to(rows, index < rows.count ? index : 0, at);
  const int size = row.sizes[0] * row.sizes[1];
  float sum = 0.0f;
  for (int i = threadIdx.y; i < size; i += blockDim.y) {
    const int first = i / row.sizes[1], second = i - first * row.sizes[1];
    sum += to_float(x[at[1] + first * row.x[0] + second * row.x[1]]);
  }
  sum = together<Add>(shared, sum);
  if (index < rows.count && threadIdx.y == 0) {
    y[at[0]] = from_float<T>(sum / static_cast<float>(size));
  }
}

// Along row.sizes[0]; row.sizes[1] is 1.
template <bool LOGARITHM, class T>
__device__ __forceinline__ void softmax(const T* x, T* y, const Walk<2>& rows, const Row& row) {
  __shared__ float shared[THREADS];
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  int at[2];
  step_to(rows, index < rows.count ? index : 0, at);
  const T* from = x + at[1];
  T* to = y + at[0];
  // Where a row is shorter than its threads, some see its first number again: a maximum does not
  // mind.
  float largest = to_float(from[0]);
  for (int i = threadIdx.y; i < row.sizes[0]; i += blockDim.y) {
    largest = Larger::join(largest, to_float(from[i * row.x[0]]));
  }
  largest = together<Larger>(shared, largest);
  float sum = 0.0f;
  for (int i = threadIdx.y; i < row.sizes[0]; i += blockDim.y) {
    sum += expf(to_float(from[i * row.x[0]]) - largest);
  }
  sum = together<Add>(shared, sum);
  if (index >= rows.count) return;
  for (int i = threadIdx.y; i < row.sizes[0]; i += blockDim.y) {
    const float below = to_float(from[i * row.x[0]]) - largest;
    to[i * row.y[0]] = from_float<T>(LOGARITHM ? below - logf(sum) : expf(below) / sum);
  }
}

}  // namespace masktools

using namespace masktools;

extern "C" __global__ void __launch_bounds__(256)
    mean_float32(const float* x, float* y, Walk<2> rows, Row row) {
  mean(x, y, rows, row);
}

extern "C" __global__ void __launch_bounds__(256)
    mean_float16(const Half* x, Half* y, Walk<2> rows, Row row) {
  mean(x, y, rows, row);
}

extern "C" __global__ void __launch_bounds__(256)
    softmax_float32(const float* x, float* y, Walk<2> rows, Row row) {
  softmax<false>(x, y, rows, row);
}

extern "C" __global__ void __launch_bounds__(256)
    softmax_float16(const Half* x, Half* y, Walk<2> rows, Row row) {
  softmax<false>(x, y, rows, row);
}

extern "C" __global__ void __launch_bounds__(256)
    log_softmax_float32(const float* x, float* y, Walk<2> rows, Row row) {
  softmax<true>(x, y, rows, row);
}

extern "C" __global__ void __launch_bounds__(256)
    log_softmax_float16(const Half* x, Half* y, Walk<2> rows, Row row) {
  softmax<true>(x, y, rows, row);
}
