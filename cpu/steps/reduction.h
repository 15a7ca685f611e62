// Operations that sum up whole axes: GlobalAveragePool, Softmax and LogSoftmax.
#pragma once

#include <cstdint>
#include <memory>

#include "program/operation.h"
#include "program/view.h"

namespace masktools {

// Both throw std::invalid_argument if a view leaves an arena of `arena_elements`, or the shapes do
// not fit. T: float or Bfloat16; sums are float.

// y (n, c, 1...) = the sum of x (n, c, ...) over all axes from 2 on, over so many pixels: of those
// that are summed, others may be zeros beside the rows. NaN where there are none.
template <class T>
std::unique_ptr<const Operation> make_mean(const View& x, const View& y, std::int64_t pixels,
                                           std::int64_t arena_elements);

// y = exp(x) / sum(exp(x)) along `axis`, or its logarithm. y may be the same view as x.
template <class T>
std::unique_ptr<const Operation> make_softmax(const View& x, const View& y, int axis,
                                              bool logarithm, std::int64_t arena_elements);

}  // namespace masktools
