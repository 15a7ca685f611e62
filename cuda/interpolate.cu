// Weighted sums of entries along one axis: linear and cubic Resize. Summed in float32.
//
// Launch: blocks of 256, a thread for each element written. x and y must not overlap.
#include "device.cuh"
#include "walk.cuh"

namespace masktools {

// y[.., i, ..] = the sum over t < taps of weights[i, t] * x[.., indices[i, t], ..], where i is the
// place along axis `along` of the walk, whose sizes are those of y. Strides: of y, x.
template <class T>
__device__ __forceinline__ void interpolate(const T* x, const int* indices, const float* weights,
                                            T* y, const Walk<2>& walk, int along, int taps) {
  int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= walk.count) return;
  int to = 0, from = 0, entry = 0, stride = 0;
  for (int axis = walk.axes - 1; axis >= 0; axis--) {
    const int rest = index / walk.sizes[axis];
    const int place = index - rest * walk.sizes[axis];
    index = rest;
    to += place * walk.strides[0][axis];
    if (axis == along) {
      entry = place;
      stride = walk.strides[1][axis];
    } else {
      from += place * walk.strides[1][axis];
    }
  }
  float sum = 0.0f;
  for (int tap = entry * taps; tap < (entry + 1) * taps; tap++) {
    sum += weights[tap] * to_float(x[from + indices[tap] * stride]);
  }
  y[to] = from_float<T>(sum);
}

}  // namespace masktools

using namespace masktools;

// indices, weights: (size of y along the axis, taps), int32 and float32.
extern "C" __global__ void __launch_bounds__(256)
    interpolate_float32(const float* x, const int* indices, const float* weights, float* y,
                        Walk<2> walk, int along, int taps) {
  interpolate(x, indices, weights, y, walk, along, taps);
}

extern "C" __global__ void __launch_bounds__(256)
    interpolate_float16(const Half* x, const int* indices, const float* weights, Half* y,
                        Walk<2> walk, int along, int taps) {
  interpolate(x, indices, weights, y, walk, along, taps);
}
