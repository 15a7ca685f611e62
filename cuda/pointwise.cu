// y = activate(a op b), y = activate(a b + c) and y = a where c, else b, element by element,
// operands broadcast.
//
// Launch: blocks of 256, a thread for each element of y. y may be a, not part of it. Numbers are
// computed with as float32 whatever their type.
#include "activation.cuh"
#include "device.cuh"
#include "walk.cuh"

namespace masktools {

enum PointwiseOp {
  COPY,
  ADD,
  SUB,
  SUB_FROM,
  MUL,
  DIV,
  DIV_BY_FIRST,
  MUL_ADD,
  MAX,
  MIN,
  PRELU,
  GREATER,
  GREATER_OR_EQUAL,
  LESS,
  LESS_OR_EQUAL,
  EQUAL
};

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
    case GREATER:
      return a > b ? 1 : 0;
    case GREATER_OR_EQUAL:
      return a >= b ? 1 : 0;
    case LESS:
      return a < b ? 1 : 0;
    case LESS_OR_EQUAL:
      return a <= b ? 1 : 0;
    case EQUAL:
      return a == b ? 1 : 0;
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

// An operand: a value, or a constant of the network where that is null.
template <class T>
__device__ __forceinline__ float operand(const T* value, const float* constant, int at) {
  return value ? to_float(value[at]) : constant[at];
}

// Strides: of y, c, a, b. Of a and b that one is read which the condition chooses.
template <class T>
__device__ __forceinline__ void where(const T* c, const float* c_constant, const T* a,
                                      const float* a_constant, const T* b, const float* b_constant,
                                      T* y, const Walk<4>& walk) {
  const int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= walk.count) return;
  int at[4];
  step_to(walk, index, at);
  const bool chosen = operand(c, c_constant, at[1]) != 0;
  y[at[0]] = from_float<T>(chosen ? operand(a, a_constant, at[2]) : operand(b, b_constant, at[3]));
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

extern "C" __global__ void __launch_bounds__(256)
    where_float32(const float* c, const float* c_constant, const float* a, const float* a_constant,
                  const float* b, const float* b_constant, float* y, Walk<4> walk) {
  where(c, c_constant, a, a_constant, b, b_constant, y, walk);
}

extern "C" __global__ void __launch_bounds__(256)
    where_float16(const Half* c, const float* c_constant, const Half* a, const float* a_constant,
                  const Half* b, const float* b_constant, Half* y, Walk<4> walk) {
  where(c, c_constant, a, a_constant, b, b_constant, y, walk);
}
