// Chosen entries of a value.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "program/operation.h"
#include "program/view.h"

namespace masktools {

// For one axis, the entry of x that each entry of y is; -1 where it is the fill value.
struct AxisIndices {
  int axis;
  std::vector<std::int32_t> indices;
};

// y = entries of x along some axes, and all along the others. Throws std::invalid_argument if a
// view leaves an arena of `arena_elements`, an index x, or shapes do not fit. x and y share no
// element. T, the type of the arena's elements: float or Bfloat16.
template <class T>
std::unique_ptr<const Operation> make_gather(const View& x, const View& y,
                                             const std::vector<AxisIndices>& axes, float fill,
                                             std::int64_t arena_elements);

}  // namespace masktools
