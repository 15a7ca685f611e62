// Rows that several tiles add to: the sum of their partial sums, then the epilogue.
//
// A launch after that of the tiles, not the work of the last of them: the tiles of a row may differ
// in rows, columns and positions, so that no counter of theirs would tell when a row is complete.
//
// rows     (F,) output rows
// starts   (F + 1,) where each row's entries of `slots` start
// slots    partial sums, added in this order; none is fine
// The rest as for convolution.cuh. Launch: 256 threads, grid (positions / 256 rounded up, F).
#include "epilogue.cuh"

namespace masktools {

template <class T>
__device__ __forceinline__ void finish_row(const float* partial, const int* rows, const int* starts,
                                           const int* slots, const float* bias, const T* skip, T* y,
                                           const Geometry& geometry) {
  const int position = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (position >= geometry.positions) return;
  const int row = rows[blockIdx.y];
  float sum = 0;
  for (int i = starts[blockIdx.y]; i < starts[blockIdx.y + 1]; i++) {
    sum += partial[slots[i] * geometry.positions + position];
  }
  const Output<T> output{bias, skip, y, nullptr};
  send<ANY>(output, geometry, row, Span<1, true>(geometry, position), Vector<float, 1>{sum});
}

}  // namespace masktools

extern "C" __global__ void __launch_bounds__(256)
    finish_float32(const float* partial, const int* rows, const int* starts, const int* slots,
                   const float* bias, const float* skip, float* y, masktools::Geometry geometry) {
  masktools::finish_row(partial, rows, starts, slots, bias, skip, y, geometry);
}

extern "C" __global__ void __launch_bounds__(256)
    finish_float16(const float* partial, const int* rows, const int* starts, const int* slots,
                   const float* bias, const masktools::Half* skip, masktools::Half* y,
                   masktools::Geometry geometry) {
  masktools::finish_row(partial, rows, starts, slots, bias, skip, y, geometry);
}
