// Sums along axes of a value: reductions of any kind, the mean of an image, softmax or its
// logarithm, and what takes mean and variance away.
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

struct Smaller {  // as Larger
  __device__ __forceinline__ static float join(float a, float b) { return a < b || a != a ? a : b; }
};

enum ReduceOp { SUM, MEAN, LARGEST, SMALLEST, NORM };

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

// Returns all numbers of a row joined, beginning with `first`, each of them squared where SQUARED.
template <class Joining, bool SQUARED, class T>
__device__ __forceinline__ float joined(float* shared, const T* from, const Walk<1>& along,
                                        float first) {
  float mine = first;
  for (int i = threadIdx.y; i < along.count; i += blockDim.y) {
    int at[1];
    step_to(along, i, at);
    const float x = to_float(from[at[0]]);
    mine = Joining::join(mine, SQUARED ? x * x : x);
  }
  return together<Joining>(shared, mine);
}

// Strides of the walk over rows: of y, x; of the walk along a row: of x.
template <class T>
__device__ __forceinline__ void reduce(const T* x, T* y, const Walk<2>& rows, const Walk<1>& along,
                                       int op) {
  __shared__ float shared[THREADS];
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  int at[2];
  step_to(rows, index < rows.count ? index : 0, at);
  const T* from = x + at[1];
  float made;
  if (op == LARGEST) {
    made = joined<Larger, false>(shared, from, along, -__int_as_float(0x7f800000));
  } else if (op == SMALLEST) {
    made = joined<Smaller, false>(shared, from, along, __int_as_float(0x7f800000));
  } else if (op == NORM) {
    made = sqrtf(joined<Add, true>(shared, from, along, 0.0f));
  } else {
    made = joined<Add, false>(shared, from, along, 0.0f);
    if (op == MEAN) made /= static_cast<float>(along.count);
  }
  if (index < rows.count && threadIdx.y == 0) y[at[0]] = from_float<T>(made);
}

// y = (x - mean) / sqrt(variance + epsilon) * scale + shift; scale and shift, float32, have a
// number for each place of a row, or are null. Strides of the walk over rows: of y, x; of the walk
// along a row: of y, x, and the constants.
template <class T>
__device__ __forceinline__ void normalize(const T* x, T* y, const float* scale, const float* shift,
                                          const Walk<2>& rows, const Walk<3>& along,
                                          float epsilon) {
  __shared__ float shared[THREADS];
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  int first[2], at[3];
  step_to(rows, index < rows.count ? index : 0, first);
  const float count = static_cast<float>(along.count);
  float sum = 0.0f;
  for (int i = threadIdx.y; i < along.count; i += blockDim.y) {
    step_to(along, i, at);
    sum += to_float(x[first[1] + at[1]]);
  }
  const float mean = together<Add>(shared, sum) / count;
  sum = 0.0f;
  for (int i = threadIdx.y; i < along.count; i += blockDim.y) {
    step_to(along, i, at);
    const float apart = to_float(x[first[1] + at[1]]) - mean;
    sum += apart * apart;
  }
  const float factor = 1.0f / sqrtf(together<Add>(shared, sum) / count + epsilon);
  if (index >= rows.count) return;
  for (int i = threadIdx.y; i < along.count; i += blockDim.y) {
    step_to(along, i, at);
    float value = (to_float(x[first[1] + at[1]]) - mean) * factor;
    if (scale) value *= scale[at[2]];
    if (shift) value += shift[at[2]];
    y[first[0] + at[0]] = from_float<T>(value);
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
    reduce_float32(const float* x, float* y, Walk<2> rows, Walk<1> along, int op) {
  reduce(x, y, rows, along, op);
}

extern "C" __global__ void __launch_bounds__(256)
    reduce_float16(const Half* x, Half* y, Walk<2> rows, Walk<1> along, int op) {
  reduce(x, y, rows, along, op);
}

extern "C" __global__ void __launch_bounds__(256)
    normalize_float32(const float* x, float* y, const float* scale, const float* shift,
                      Walk<2> rows, Walk<3> along, float epsilon) {
  normalize(x, y, scale, shift, rows, along, epsilon);
}

extern "C" __global__ void __launch_bounds__(256)
    normalize_float16(const Half* x, Half* y, const float* scale, const float* shift, Walk<2> rows,
                      Walk<3> along, float epsilon) {
  normalize(x, y, scale, shift, rows, along, epsilon);
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
