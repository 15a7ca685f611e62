// Operations that move values and compute nothing: copies between layouts, and fills.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "program/operation.h"
#include "program/view.h"

namespace masktools {

// All of these throw std::invalid_argument if a view leaves an arena of `arena_elements` or shapes
// do not fit. T, the type of the arena's elements: float or Bfloat16. x and y share no element
// unless they are the same view.

// y = x, of any layouts.
template <class T>
std::unique_ptr<const Operation> make_copy(const View& x, const View& y,
                                           std::int64_t arena_elements);

// y = the input of that index, C-contiguous.
template <class T>
std::unique_ptr<const Operation> make_copy_in(std::int64_t input, const View& y,
                                              std::int64_t arena_elements);

// The output of that index, C-contiguous, = x.
template <class T>
std::unique_ptr<const Operation> make_copy_out(const View& x, std::int64_t output,
                                               std::int64_t arena_elements);

// y = value.
template <class T>
std::unique_ptr<const Operation> make_fill(const View& y, float value, std::int64_t arena_elements);

}  // namespace masktools
