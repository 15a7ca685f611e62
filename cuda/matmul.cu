// y = a b, matrix by matrix.
//
// Launch: blocks of 256; one for each tile of TILE x TILE numbers of each matrix of y, matrix after
// matrix. y must not overlap a or b. Sums are float32 whatever the type.
#include "device.cuh"
#include "walk.cuh"

namespace masktools {

constexpr int TILE = 32;
constexpr int THREADS = 256;
constexpr int EACH = TILE * TILE / THREADS;  // numbers of a tile that a thread makes, below another

// The sizes of each matrix, and its strides from row to row and from column to column. By value.
struct Product {
  int rows, columns, depth;
  int a[2], b[2], y[2];
};

// Element (row, column) of a matrix of so many rows and columns; 0 outside.
template <class T>
__device__ __forceinline__ float element(const T* matrix, const int (&strides)[2], int rows,
                                         int columns, int row, int column) {
  if (row >= rows || column >= columns) return 0.0f;
  return to_float(matrix[row * strides[0] + column * strides[1]]);
}

// Strides of the walk over matrices: of y, a, b.
template <class T>
__device__ __forceinline__ void matmul(const T* a, const T* b, T* y, const Walk<3>& batch,
                                       const Product& product) {
  __shared__ float left[TILE][TILE + 1], right[TILE][TILE + 1];
  const int across = (product.columns + TILE - 1) / TILE;
  const int tiles = (product.rows + TILE - 1) / TILE * across;
  const int matrix = blockIdx.x / tiles, tile = blockIdx.x - matrix * tiles;
  const int first_row = tile / across * TILE, first_column = tile % across * TILE;
  int at[3];
  step_to(batch, matrix, at);
  const int x = threadIdx.x % TILE, top = threadIdx.x / TILE;
  float sums[EACH] = {};
  for (int k = 0; k < product.depth; k += TILE) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      const int row = top + i * (THREADS / TILE);
      left[row][x] =
          element(a + at[1], product.a, product.rows, product.depth, first_row + row, k + x);
      right[row][x] =
          element(b + at[2], product.b, product.depth, product.columns, k + row, first_column + x);
    }
    __syncthreads();
    for (int j = 0; j < TILE; j++) {
#pragma unroll
      for (int i = 0; i < EACH; i++) sums[i] += left[top + i * (THREADS / TILE)][j] * right[j][x];
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    const int row = first_row + top + i * (THREADS / TILE), column = first_column + x;
    if (row < product.rows && column < product.columns) {
      y[at[0] + row * product.y[0] + column * product.y[1]] = from_float<T>(sums[i]);
    }
  }
}

}  // namespace masktools

using namespace masktools;

extern "C" __global__ void __launch_bounds__(256)
    matmul_float32(const float* a, const float* b, float* y, Walk<3> batch, Product product) {
  matmul(a, b, y, batch, product);
}

extern "C" __global__ void __launch_bounds__(256)
    matmul_float16(const Half* a, const Half* b, Half* y, Walk<3> batch, Product product) {
  matmul(a, b, y, batch, product);
}
