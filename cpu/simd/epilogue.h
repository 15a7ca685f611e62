// What happens to a sum before it is written, of floats and of vectors alike; what is more than
// bounds is a call of activate.h.
#pragma once

#include <limits>

#include "simd/activate.h"
#include "simd/vector.h"

namespace masktools {

// A NaN is kept, whatever the bounds: the comparison is false. The order of bounds is that of
// numpy.minimum(numpy.maximum(x, low), high).
template <class V>
inline V at_least(V x, V low) {
  return low > x ? low : x;
}

template <class V>
inline V at_most(V x, V high) {
  return high < x ? high : x;
}

template <class V>
inline V clamp(V x, V low, V high) {
  return at_most(at_least(x, low), high);
}

// As numpy.maximum and numpy.minimum: NaN if either is.
template <class V>
inline V maximum(V a, V b) {
  return a > b ? a : a != a ? a : b;
}

template <class V>
inline V minimum(V a, V b) {
  return a < b ? a : a != a ? a : b;
}

// The activations that are bounds (none, Relu, Clip) as such, so that kernels apply all of them
// alike: unbounded is bounded by infinity.
struct Bounds {
  float low = -std::numeric_limits<float>::infinity();
  float high = std::numeric_limits<float>::infinity();
};

inline bool is_bounds(const Activation& activation, Bounds* bounds) {
  *bounds = Bounds();
  switch (activation.op) {
    case Activation::Op::kNone:
      return true;
    case Activation::Op::kRelu:
      bounds->low = 0.0f;
      return true;
    case Activation::Op::kClip:
      *bounds = {activation.alpha, activation.beta};
      return true;
    default:
      return false;
  }
}

}  // namespace masktools
