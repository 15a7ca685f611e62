// Numbers from one place to another, unchanged: slices, parts of a concatenation, transpositions,
// gathers, padding.
//
// Launch: blocks of 256, a thread for each element written. x and y must not overlap.
#include "device.cuh"
#include "walk.cuh"

namespace masktools {

// Where along each axis an element is read: at its own place, or at the place that a table says.
struct Tables {
  int starts[AXES];  // of the axis in `places`; -1: its own place
};

// y[i0, i1, ..] = x[p0(i0), p1(i1), ..], or `fill` where a table says -1. Strides: of y, x.
template <class T>
__device__ __forceinline__ void move(const T* x, const int* places, T* y, const Walk<2>& walk,
                                     const Tables& tables, float fill) {
  int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= walk.count) return;
  int to = 0, from = 0;
  bool inside = true;
  for (int axis = walk.axes - 1; axis >= 0; axis--) {
    const int rest = index / walk.sizes[axis];
    int place = index - rest * walk.sizes[axis];
    index = rest;
    to += place * walk.strides[0][axis];
    if (tables.starts[axis] >= 0) place = places[tables.starts[axis] + place];
    inside = inside && place >= 0;
    from += place * walk.strides[1][axis];
  }
  y[to] = inside ? x[from] : from_float<T>(fill);
}

}  // namespace masktools

using namespace masktools;

// places: (sum of the sizes of the axes that have a table), int32; null where none has.
extern "C" __global__ void __launch_bounds__(256)
    move_float32(const float* x, const int* places, float* y, Walk<2> walk, Tables tables,
                 float fill) {
  move(x, places, y, walk, tables, fill);
}

extern "C" __global__ void __launch_bounds__(256)
    move_float16(const Half* x, const int* places, Half* y, Walk<2> walk, Tables tables,
                 float fill) {
  move(x, places, y, walk, tables, fill);
}
