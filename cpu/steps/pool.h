// MaxPool and AveragePool.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "program/operation.h"
#include "program/view.h"

namespace masktools {

// Windows of a pool, as in runtime.plan.steps.Pool.
struct Window {
  std::array<std::int64_t, 2> kernel, strides, dilations;  // along y and x
  std::array<std::int64_t, 4> pads;                        // top, left, bottom, right
  std::array<std::int64_t, 4> counted;  // an average divides by the taps inside the image, widened
                                        // by so much on each side
};

enum class PoolKind { kMax, kAverage };

// y (n, c, y, x) = the maximum, or the average, of the taps of each window that lie inside x. The
// maximum of none is -infinity, that of any NaN is NaN. Throws std::invalid_argument if a view
// leaves an arena of `arena_elements`, or the shapes do not fit. T: float or Bfloat16; sums are
// float.
template <class T>
std::unique_ptr<const Operation> make_pool(PoolKind kind, const View& x, const View& y,
                                           const Window& window, std::int64_t arena_elements);

}  // namespace masktools
