// y = activate(a op b) and y = activate(a b + c), element by element, operands broadcast.
//
// Launch: blocks of 256, a thread for each element of y. y may be a, not part of it. Numbers are
// computed with as float32 whatever their type.
#include "activation.cuh"
#include "device.cuh"
#include "walk.cuh"

namespace masktools {

enum PointwiseOp { COPY, ADD, SUB, SUB_FROM, MUL, DIV, DIV_BY_FIRST, MUL_ADD, MAX, MIN, PRELU };

__device__ __forceinline__ float combine(int op, float a, float b, float c) {
  switch (op) {
    case ADD:
      return a + b;
    case SUB:
      return a - b;
    case SUB_FROM:
      return b - a;
    case MUL:
      return a * b;
    case DIV:
      return a / b;
    case DIV_BY_FIRST:
      return b / a;
    case MUL_ADD:
      return a * b + c;
    case MAX:  // of two numbers, a NaN where either is
      return a > b || a != a ? a : b;
    case MIN:
      return a < b || a != a ? a : b;
    case PRELU:
      return a < 0 ? a * b : a;
    default:
      return a;
  }
}

// a, y: values. b: a value (B is T), or a constant of the network (B is float). c: a constant, read
// by MUL_ADD alone. b is read by all but COPY. Strides: of y, a, b, c.
template <class T, class B>
__device__ __forceinline__ void pointwise(const T* a, const B* b, const float* c, T* y,
                                          const Walk<4>& walk, int op,
                                          const Activation& activation) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= walk.count) return;
  int at[4];
  step_to(walk, index, at);
  const float second = op == COPY ? 0.0f : to_float(b[at[2]]);
  const float third = op == MUL_ADD ? c[at[3]] : 0.0f;
  y[at[0]] = from_float<T>(activate(activation, combine(op, to_float(a[at[1]]), second, third)));
}

}  // namespace masktools

using namespace masktools;

extern "C" __global__ void __launch_bounds__(256)
    pointwise_float32(const float* a, const float* b, const float* c, float* y, Walk<4> walk,
                      int op, Activation activation) {
  pointwise(a, b, c, y, walk, op, activation);
}

extern "C" __global__ void __launch_bounds__(256)
    pointwise_float16(const Half* a, const Half* b, const float* c, Half* y, Walk<4> walk, int op,
                      Activation activation) {
  pointwise(a, b, c, y, walk, op, activation);
}

extern "C" __global__ void __launch_bounds__(256)
    pointwise_constant_float32(const float* a, const float* b, const float* c, float* y,
                               Walk<4> walk, int op, Activation activation) {
  pointwise(a, b, c, y, walk, op, activation);
}

extern "C" __global__ void __launch_bounds__(256)
    pointwise_constant_float16(const Half* a, const float* b, const float* c, Half* y, Walk<4> walk,
                               int op, Activation activation) {
  pointwise(a, b, c, y, walk, op, activation);
}
