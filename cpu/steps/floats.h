// Elements of any type, at any distance, as floats next to each other.
#pragma once

#include <cstdint>
#include <type_traits>

namespace masktools {

// from[i * stride] for i < n: in place where they are floats next to each other, else in `buffer`.
// Not inlined, so that the loops over its result are compiled once, not for each type and stride.
template <class T>
__attribute__((noinline)) const float* as_floats(const T* from, std::int64_t stride, std::int64_t n,
                                                 float* buffer) {
  if constexpr (std::is_same_v<T, float>) {
    if (stride == 1) return from;
  }
  if (stride == 1) {
    for (std::int64_t i = 0; i < n; ++i) buffer[i] = static_cast<float>(from[i]);
  } else {
    for (std::int64_t i = 0; i < n; ++i) buffer[i] = static_cast<float>(from[i * stride]);
  }
  return buffer;
}

}  // namespace masktools
