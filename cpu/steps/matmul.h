// MatMul: products of two values, matrix by matrix.
#pragma once

#include <cstdint>
#include <memory>

#include "program/operation.h"
#include "program/view.h"

namespace masktools {

// y (..., m, n) = a (..., m, k) b (..., k, n); all axes but the last two are those of y, along
// which a and b may repeat themselves with strides of 0. T: float or Bfloat16; sums are float.
// Throws std::invalid_argument if a view leaves an arena of `arena_elements`, or the shapes do not
// fit. y must not overlap a or b.
template <class T>
std::unique_ptr<const Operation> make_matmul(const View& a, const View& b, const View& y,
                                             std::int64_t arena_elements);

}  // namespace masktools
