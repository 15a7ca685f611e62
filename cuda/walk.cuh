// Elementwise work on values of any shape: which elements of the operands belong together.
#pragma once

namespace masktools {

constexpr int AXES = 6;  // the host merges axes that lie together; more are refused there

// Axes that a kernel steps through, the last one fastest, and how many elements an operand moves
// on along each: 0 where it is broadcast. By value; the first `axes` entries count.
template <int OPERANDS>
struct Walk {
  int count;  // the product of the sizes
  int axes;
  int sizes[AXES];
  int strides[OPERANDS][AXES];
};

// Sets `at` to where each operand's element number `index` lies.
template <int OPERANDS>
__device__ __forceinline__ void step_to(const Walk<OPERANDS>& walk, int index,
                                        int (&at)[OPERANDS]) {
#pragma unroll
  for (int i = 0; i < OPERANDS; i++) at[i] = 0;
  for (int axis = walk.axes - 1; axis >= 0; axis--) {
    const int rest = index / walk.sizes[axis];
    const int place = index - rest * walk.sizes[axis];
#pragma unroll
    for (int i = 0; i < OPERANDS; i++) at[i] += place * walk.strides[i][axis];
    index = rest;
  }
}

}  // namespace masktools
