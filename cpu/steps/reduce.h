// Reduce: sums, means, extremes and norms over any axes; and Normalize, which takes them away.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "program/operation.h"
#include "program/view.h"

namespace masktools {

enum class Reduction { kSum, kMean, kMax, kMin, kL2 };

// Both throw std::invalid_argument if a view leaves an arena of `arena_elements`, or the shapes do
// not fit. T: float or Bfloat16; sums are float.

// y = x reduced over the axes along which y has size 1. A maximum or minimum is NaN where any of
// its numbers is.
template <class T>
std::unique_ptr<const Operation> make_reduce(Reduction reduction, const View& x, const View& y,
                                             std::int64_t arena_elements);

// y = (x - mean) / sqrt(variance + epsilon) * scale + shift, mean and variance over the axes from
// `axis` on, along which scale and shift lie in C order; either is empty for none. y may be the
// same view as x.
template <class T>
std::unique_ptr<const Operation> make_normalize(const View& x, const View& y, int axis,
                                                float epsilon, std::vector<float> scale,
                                                std::vector<float> shift,
                                                std::int64_t arena_elements);

}  // namespace masktools
