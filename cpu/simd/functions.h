// Functions of one number, of floats and of vectors alike: what activate.cpp is compiled from.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "simd/activation.h"
#include "simd/epilogue.h"
#include "simd/vector.h"

namespace masktools {

// --- powers of e --------------------------------------------------------------------------------

// e to the power x, as (1 + rest) * scale: the rest is small, and the scale is a power of 2.
template <class V>
struct Power {
  V rest, scale;
};

constexpr float kLeastPower = -87.0f, kLargestPower = 88.0f;  // e to these are normal numbers

// For x between the two powers; the rest is NaN where x is.
template <class V>
inline Power<V> power_of_e(V x) {
  constexpr float kLog2 = 1.44269504f;
  constexpr float kHigh = 0.693359375f, kLow = -2.12194440e-4f;  // ln 2 in two parts
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: sums with it are rounded to whole numbers
  const V shifted = x * kLog2 + kRound;
  const V power = shifted - kRound;
  const V r = (x - power * kHigh) - power * kLow;
  V sum = V{} + 1.9875691500e-4f;
  sum = sum * r + 1.3981999507e-3f;
  sum = sum * r + 8.3334519073e-3f;
  sum = sum * r + 4.1665795894e-2f;
  sum = sum * r + 1.6666665459e-1f;
  sum = sum * r + 5.0000001201e-1f;
  sum = sum * r * r + r;
  // The whole part of x / ln 2 stands in the low bits of `shifted`; it becomes an exponent.
  std::uint32_t bits[sizeof(V) / 4];
  std::memcpy(bits, &shifted, sizeof(V));
  for (std::uint32_t& b : bits) b = (b + 127) << 23;
  V scale;
  std::memcpy(&scale, bits, sizeof(V));
  return {sum, scale};
}

template <class V>
inline V bounded_power(V x) {
  return clamp(x, V{} + kLeastPower, V{} + kLargestPower);
}

// e to the power x, to within two units in the last place; NaN where x is. Powers beyond the normal
// numbers end at their limits.
template <class V>
inline V exponential(V x) {
  const Power<V> power = power_of_e(bounded_power(x));
  return (power.rest + 1.0f) * power.scale;
}

// exponential(x) - 1, as exact where x is about 0 and the difference has few digits left.
template <class V>
inline V exponential_less_one(V x) {
  const Power<V> power = power_of_e(bounded_power(x));
  return power.rest * power.scale + (power.scale - 1.0f);
}

// As exponential, of x below zero, but zero beyond the normal numbers: large numbers times it
// vanish too.
template <class V>
inline V vanishing(V x) {
  const V least = V{} + kLeastPower;
  const Power<V> power = power_of_e(at_least(x, least));
  return x < least ? V{} : (power.rest + 1.0f) * power.scale;
}

// The number of the same size that is not above zero.
inline float below_zero(float x) { return -std::fabs(x); }

inline Vector below_zero(Vector x) {
  return reinterpret_cast<Vector>(reinterpret_cast<IntVector>(x) |
                                  std::numeric_limits<std::int32_t>::min());
}

// e to the power x over the whole range of floats, from 0 to infinity.
template <class V>
inline V unbounded_exponential(V x) {
  const V root = exponential(x * 0.5f);
  return root * root;
}

// --- logarithms ---------------------------------------------------------------------------------

// ln(1 + x) for x from -1/3 to 1, to within a few units in the last place: with s = x / (2 + x) it
// is 2 (s + s^3 / 3 + s^5 / 5 + ...), where s is at most 1/3 in size.
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

// ln(x): with x = m * 2^power and m about 1 it is ln(m) + power * ln(2).
template <class V>
inline V logarithm(V x) {
  constexpr std::int32_t kRootOfHalf = 0x3f3504f3;               // the bits of the smallest m
  constexpr float kHigh = 0.693359375f, kLow = -2.12194440e-4f;  // ln 2 in two parts
  const V zero = V{}, infinity = zero + std::numeric_limits<float>::infinity();
  const V least = zero + std::numeric_limits<float>::min();
  const V normal = x < least ? x * 16777216.0f : x;  // 2^24 times what has leading zeros
  std::int32_t bits[sizeof(V) / 4];
  float powers[sizeof(V) / 4];
  std::memcpy(bits, &normal, sizeof(V));
  for (std::size_t i = 0; i < sizeof(V) / 4; ++i) {
    const std::int32_t power = (bits[i] - kRootOfHalf) >> 23;
    bits[i] -= power * (1 << 23);
    powers[i] = static_cast<float>(power);
  }
  V m, power;
  std::memcpy(&m, bits, sizeof(V));
  std::memcpy(&power, powers, sizeof(V));
  power -= x < least ? zero + 24.0f : zero;
  const V made = power * kHigh + (power * kLow + logarithm_of_one_plus(m - 1.0f));
  const V ended = x < infinity ? made : x;  // infinity and NaN stay
  return x > zero ? ended : x < zero ? zero / zero : x == zero ? zero - infinity : x;
}

// --- functions of exponentials ------------------------------------------------------------------

// ln(1 + exp(x)), where exp cannot overflow.
template <class V>
inline V softplus(V x) {
  const V zero = V{};
  return at_least(x, zero) + logarithm_of_one_plus(exponential(x > zero ? zero - x : x));
}

// (exp(2x) - 1) / (exp(2x) + 1), which keeps its digits about 0.
template <class V>
inline V hyperbolic_tangent(V x) {
  const V power = exponential_less_one(x + x);
  return power / (power + 2.0f);
}

// x * sigmoid(z). Where z is far below zero nothing is left, however large x is.
template <class V>
inline V gated(V x, V z) {
  const V one = V{} + 1.0f;
  const V small = vanishing(below_zero(z));
  return x * ((z > V{} ? one : small) * reciprocal(one + small));
}

// x * sigmoid(alpha x + beta x^3). Without beta the cube, which overflows early, is left out.
template <class V>
inline V swish(V x, float alpha, float beta) {
  const V z = x * alpha;
  return gated(x, beta == 0.0f ? z : z + x * x * x * beta);
}

// x * tanh(ln(1 + exp(x))), which is x (s^2 + 2s) / (s^2 + 2s + 2) with s = exp(x); where x is
// above zero, numerator and denominator are divided by s^2.
template <class V>
inline V mish(V x) {
  const V zero = V{}, two = V{} + 2.0f;
  const V s = vanishing(below_zero(x));
  const V above = x > zero ? s * two + 1.0f : s * (s + 2.0f);
  return x * (above / (above + (x > zero ? s * s * two : two)));
}

// 1 - erf(z) where z is at least 0, given z^2: exp(-z^2) times a polynomial of t = 1 / (1 + 0.4 z),
// fitted to a relative error of 7e-9.
template <class V>
inline V complement_of_error_function(V z, V square) {
  const V t = (V{} + 1.0f) / (z * 0.4f + 1.0f);
  V sum = V{} - 3.080118777e-2f;
  sum = sum * t + 2.046028402e-1f;
  sum = sum * t - 5.144006741e-1f;
  sum = sum * t + 5.683665599e-1f;
  sum = sum * t - 3.019091407e-1f;
  sum = sum * t + 2.815642527e-1f;
  sum = sum * t + 1.263639043e-1f;
  sum = sum * t + 2.156374857e-1f;
  sum = sum * t + 2.248644920e-1f;
  sum = sum * t + 2.257114743e-1f;
  return sum * t * vanishing(V{} - square);
}

// erf(x): below 1 a polynomial, fitted to a relative error of 2e-9.
template <class V>
inline V error_function(V x) {
  const V zero = V{}, one = V{} + 1.0f, square = x * x;
  V sum = V{} + 7.853852557e-5f;
  sum = sum * square - 8.010190961e-4f;
  sum = sum * square + 5.188327382e-3f;
  sum = sum * square - 2.685381178e-2f;
  sum = sum * square + 1.128358514e-1f;
  sum = sum * square - 3.761262582e-1f;
  sum = sum * square + 1.128379166f;
  const V far = one - complement_of_error_function(x < zero ? zero - x : x, square);
  return square < one ? sum * x : x < zero ? zero - far : far;
}

// x (1 + erf(x / sqrt(2))) / 2. Where x is below zero the sum cancels, and its complement does not.
template <class V>
inline V gelu(V x) {
  const V zero = V{}, size = x < zero ? zero - x : x;
  const V share = complement_of_error_function(size * 0.707106781f, x * x * 0.5f) * 0.5f;
  return x * (x > zero ? zero + 1.0f - share : share);
}

// --- waves --------------------------------------------------------------------------------------

// sin(x + quarters pi / 2), for 0 or 1 quarter of a turn: what is left of x beyond whole quarters
// is at most pi / 4 in size, and goes through polynomials, fitted to relative errors of 4e-9 and
// 1e-10. It is taken in double, with pi / 2 in two parts: for x up to kFar that is exact enough
// even where it is close to zero. Lanes beyond that are the C library's, whatever their neighbours
// are.
template <class V>
inline V sine(V x, std::int32_t quarters) {
  constexpr int kCount = sizeof(V) / 4;
  constexpr float kFar = 500000.0f;
  constexpr double kTurns = 0.63661977236758134;                              // 2 / pi
  constexpr double kHigh = 1.5707963267341256, kLow = 6.077100506506192e-11;  // pi / 2
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: sums with it are whole numbers
  float from[kCount], rest[kCount], odd[kCount], sign[kCount];
  std::memcpy(from, &x, sizeof(V));
  bool far = false;
  for (int i = 0; i < kCount; ++i) {
    const double wide = from[i], shifted = wide * kTurns + kRound, whole = shifted - kRound;
    std::int64_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    const std::int32_t quarter = static_cast<std::int32_t>(bits & 3) + quarters;
    rest[i] = static_cast<float>((wide - whole * kHigh) - whole * kLow);
    odd[i] = static_cast<float>(quarter & 1);
    sign[i] = static_cast<float>(1 - (quarter & 2));
    far |= !(std::fabs(from[i]) <= kFar);
  }
  V r, is_odd, factor;
  std::memcpy(&r, rest, sizeof(V));
  std::memcpy(&is_odd, odd, sizeof(V));
  std::memcpy(&factor, sign, sizeof(V));
  const V square = r * r;
  V sum = V{} - 1.951697737e-4f;
  sum = sum * square + 8.332175845e-3f;
  sum = sum * square - 1.666665491e-1f;
  const V sine_of_rest = r + r * square * sum;
  sum = V{} + 2.443809076e-5f;
  sum = sum * square - 1.388736448e-3f;
  sum = sum * square + 4.166664681e-2f;
  const V cosine_of_rest = (V{} + 1.0f) + (square * square * sum - square * 0.5f);
  V made = (is_odd > V{} ? cosine_of_rest : sine_of_rest) * factor;
  if (far) {
    float lanes[kCount];
    std::memcpy(lanes, &made, sizeof(V));
    for (int i = 0; i < kCount; ++i) {
      if (std::fabs(from[i]) <= kFar) continue;
      lanes[i] = quarters == 0 ? std::sin(from[i]) : std::cos(from[i]);
    }
    std::memcpy(&made, lanes, sizeof(V));
  }
  return made;
}

// --- whole numbers ------------------------------------------------------------------------------

// The nearest whole number, of two the even one. Numbers that are whole, infinite or NaN stay.
template <class V>
inline V rounded(V x) {
  constexpr float kWhole = 8388608.0f;  // 2^23: from here on all numbers are whole
  const V zero = V{}, size = x < zero ? zero - x : x;
  const V whole = size < zero + kWhole ? (size + kWhole) - kWhole : size;
  return whole == size ? x : x < zero ? whole * -1.0f : whole;
}

// The largest whole number that is not above x.
template <class V>
inline V rounded_down(V x) {
  const V near = rounded(x);
  return near > x ? near - 1.0f : near;
}

// The smallest whole number that is not below x.
template <class V>
inline V rounded_up(V x) {
  const V near = rounded(x);
  return near < x ? near + 1.0f : near;
}

// --- all of them --------------------------------------------------------------------------------

template <class V>
inline V apply(const Activation& activation, V x) {
  const V zero = V{}, one = V{} + 1.0f;
  const float alpha = activation.alpha, beta = activation.beta;
  switch (activation.op) {
    case Activation::Op::kRelu:
      return at_least(x, zero);
    case Activation::Op::kClip:
      return clamp(x, zero + alpha, zero + beta);
    case Activation::Op::kLeakyRelu:
      return leaky_relu(x, alpha);
    case Activation::Op::kSigmoid:
      return one / (one + exponential(zero - x));
    case Activation::Op::kHardSigmoid:
      return hard_sigmoid(x, alpha, beta);
    case Activation::Op::kHardSwish:
      return hard_swish(x);
    case Activation::Op::kSoftplus:
      return softplus(x);
    case Activation::Op::kElu:
      return x < zero ? exponential_less_one(x) * alpha : x;
    case Activation::Op::kTanh:
      return hyperbolic_tangent(x);
    case Activation::Op::kErf:
      return error_function(x);
    case Activation::Op::kGelu:
      return gelu(x);
    case Activation::Op::kSwish:
      return swish(x, alpha, beta);
    case Activation::Op::kMish:
      return mish(x);
    case Activation::Op::kExp:
      return unbounded_exponential(x);
    case Activation::Op::kLog:
      return logarithm(x);
    case Activation::Op::kSqrt:
      return square_root(x);
    case Activation::Op::kThresholdedRelu:
      return x <= zero + alpha ? zero : x;
    case Activation::Op::kSin:
      return sine(x, 0);
    case Activation::Op::kCos:
      return sine(x, 1);
    case Activation::Op::kFloor:
      return rounded_down(x);
    case Activation::Op::kCeil:
      return rounded_up(x);
    case Activation::Op::kRound:
      return rounded(x);
    case Activation::Op::kSign:
      return x > zero ? one : x < zero ? zero - one : x;  // zero and NaN stay
    case Activation::Op::kNone:
      break;
  }
  return x;
}

}  // namespace masktools
