// What happens to a sum before it is written, of floats and of vectors alike.
#pragma once

#include <limits>

#include "simd/activate.h"
#include "simd/vector.h"

namespace masktools {

// A NaN is kept, whatever the bounds. The order of bounds is that of
// numpy.minimum(numpy.maximum(x, low), high).
template <class V>
inline V at_least(V x, V low) {
  return larger(low, x);
}

template <class V>
inline V at_most(V x, V high) {
  return smaller(high, x);
}

template <class V>
inline V clamp(V x, V low, V high) {
  return at_most(at_least(x, low), high);
}

// As numpy.maximum and numpy.minimum: NaN if either is.
template <class V>
inline V maximum(V a, V b) {
  return a != a ? a : larger(a, b);
}

template <class V>
inline V minimum(V a, V b) {
  return a != a ? a : smaller(a, b);
}

template <class V>
inline V leaky_relu(V x, float alpha) {
  return x < V{} ? x * alpha : x;
}

template <class V>
inline V hard_sigmoid(V x, float alpha, float beta) {
  return clamp(x * alpha + beta, V{}, V{} + 1.0f);
}

template <class V>
inline V hard_swish(V x) {
  return x * hard_sigmoid(x, 1.0f / 6.0f, 0.5f);
}

inline bool is_short(Activation::Op op) {
  return op == Activation::Op::kHardSwish || op == Activation::Op::kHardSigmoid ||
         op == Activation::Op::kLeakyRelu;
}

// Not inlined, and yet in every file: a compiler sees which registers it leaves alone, and keeps
// what a kernel holds in them. Over a call of `activate` it stores them all.
__attribute__((noinline, unused)) static Vector short_activation(const Activation& activation,
                                                                 Vector x) {
  if (activation.op == Activation::Op::kHardSwish) return hard_swish(x);
  if (activation.op == Activation::Op::kLeakyRelu) return leaky_relu(x, activation.alpha);
  return hard_sigmoid(x, activation.alpha, activation.beta);
}

// The activation of a sum, as kernels apply it.
inline Vector activated(const Activation& activation, Vector x) {
  return is_short(activation.op) ? short_activation(activation, x) : activate(activation, x);
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
