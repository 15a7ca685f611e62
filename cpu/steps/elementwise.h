// Operations on each element alone: arithmetic with broadcasting, scale and shift, activations.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "program/operation.h"
#include "program/view.h"
#include "simd/activation.h"

namespace masktools {

// What is computed of operands a, b, c before the activation.
// kPRelu: a where it is not below zero, else a * b. kScaleShift: a * b + c. Comparisons make 1 or
// 0; kWhere: b where a is not zero, else c.
enum class Arithmetic {
  kIdentity,
  kAdd,
  kSub,
  kMul,
  kDiv,
  kMax,
  kMin,
  kPRelu,
  kGreater,
  kGreaterOrEqual,
  kEqual,
  kScaleShift,
  kWhere
};

// An operand: a view of the arena, or a constant, C-contiguous under its shape.
struct Operand {
  View view;
  const float* constant = nullptr;  // null: the view is one of the arena; copied otherwise
};

// How many operands there must be.
int operands_of(Arithmetic arithmetic);

// y = activation(arithmetic(operands)), operands broadcast to y as in NumPy. An operand may be the
// same view as y; any other overlap is not allowed. Throws std::invalid_argument if a view leaves
// an arena of `arena_elements`. T: float or Bfloat16; the arithmetic is done in float.
template <class T>
std::unique_ptr<const Operation> make_elementwise(Arithmetic arithmetic,
                                                  const std::vector<Operand>& operands,
                                                  const View& y, const Activation& activation,
                                                  std::int64_t arena_elements);

}  // namespace masktools
