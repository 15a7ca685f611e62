// Weighted sums of entries of a value along one axis.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "program/operation.h"
#include "program/view.h"

namespace masktools {

// For each entry of y along an axis, the `taps` entries of x that it is made of and their weights:
// both of y's size times `taps` numbers, the taps of one entry together.
struct AxisTaps {
  int axis;
  std::int64_t taps;
  std::vector<std::int32_t> indices;
  std::vector<float> weights;
};

// y[.., i, ..] = the sum over taps t of weights[i, t] * x[.., indices[i, t], ..], in float32.
// Throws std::invalid_argument if a view leaves an arena of `arena_elements`, an index x, or shapes
// do not fit. x and y share no element. T, the type of the arena's elements: float or Bfloat16.
template <class T>
std::unique_ptr<const Operation> make_interpolation(const View& x, const View& y,
                                                    const AxisTaps& along,
                                                    std::int64_t arena_elements);

}  // namespace masktools
