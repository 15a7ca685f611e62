// What happens to a sum before it is written: activations, of floats and of vectors alike.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "simd/activation.h"
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

// As numpy.maximum: NaN if either is.
template <class V>
inline V maximum(V a, V b) {
  return a > b ? a : a != a ? a : b;
}

// e to the power x, to within two units in the last place; NaN where x is. Powers beyond the
// normal numbers end at their limits.
template <class V>
inline V exponential(V x) {
  constexpr float kLog2 = 1.44269504f;
  constexpr float kHigh = 0.693359375f, kLow = -2.12194440e-4f;  // ln 2 in two parts
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: sums with it are rounded to whole numbers
  const V bounded = clamp(x, V{} - 87.0f, V{} + 88.0f);
  const V shifted = bounded * kLog2 + kRound;
  const V power = shifted - kRound;
  const V r = (bounded - power * kHigh) - power * kLow;
  V sum = V{} + 1.9875691500e-4f;
  sum = sum * r + 1.3981999507e-3f;
  sum = sum * r + 8.3334519073e-3f;
  sum = sum * r + 4.1665795894e-2f;
  sum = sum * r + 1.6666665459e-1f;
  sum = sum * r + 5.0000001201e-1f;
  sum = sum * r * r + r + 1.0f;
  // The whole part of x / ln 2 stands in the low bits of `shifted`; it becomes an exponent.
  std::uint32_t bits[sizeof(V) / 4];
  std::memcpy(bits, &shifted, sizeof(V));
  for (std::uint32_t& b : bits) b = (b + 127) << 23;
  V scale;
  std::memcpy(&scale, bits, sizeof(V));
  return sum * scale;
}

// ln(1 + x) for x from 0 to 1, to within a few units in the last place: with s = x / (2 + x) it is
// 2 (s + s^3 / 3 + s^5 / 5 + ...), where s is at most 1/3.
template <class V>
inline V logarithm_of_one_plus(V x) {
  const V s = x / (x + 2.0f), square = s * s;
  V sum = V{} + 1.0f / 15.0f;
  sum = sum * square + 1.0f / 13.0f;
  sum = sum * square + 1.0f / 11.0f;
  sum = sum * square + 1.0f / 9.0f;
  sum = sum * square + 1.0f / 7.0f;
  sum = sum * square + 1.0f / 5.0f;
  sum = sum * square + 1.0f / 3.0f;
  sum = sum * square + 1.0f;
  return sum * s * 2.0f;
}

// ln(1 + exp(x)), where exp cannot overflow.
template <class V>
inline V softplus(V x) {
  const V zero = V{};
  return at_least(x, zero) + logarithm_of_one_plus(exponential(x > zero ? zero - x : x));
}

template <class V>
inline V activate(const Activation& activation, V x) {
  const V zero = V{}, one = V{} + 1.0f;
  const float alpha = activation.alpha, beta = activation.beta;
  switch (activation.op) {
    case Activation::Op::kRelu:
      return at_least(x, zero);
    case Activation::Op::kClip:
      return clamp(x, zero + alpha, zero + beta);
    case Activation::Op::kLeakyRelu:
      return x < zero ? x * alpha : x;
    case Activation::Op::kSigmoid:
      return one / (one + exponential(zero - x));
    case Activation::Op::kHardSigmoid:
      return clamp(x * alpha + beta, zero, one);
    case Activation::Op::kHardSwish:
      return x * clamp(x * (1.0f / 6.0f) + 0.5f, zero, one);
    case Activation::Op::kSoftplus:
      return softplus(x);
    case Activation::Op::kNone:
      break;
  }
  return x;
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
