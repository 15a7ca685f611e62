// What kernels compute, by definition and in double precision.
#pragma once

#include <algorithm>
#include <cmath>
#include <iterator>

#include "kernels/grouped/layer.h"

namespace masktools {

inline double activated(const Activation& activation, double x) {
  const double alpha = activation.alpha, beta = activation.beta;
  switch (activation.op) {
    case Activation::Op::kRelu:
      return std::max(x, 0.0);
    case Activation::Op::kClip:
      return std::clamp(x, alpha, beta);
    case Activation::Op::kLeakyRelu:
      return x < 0 ? alpha * x : x;
    case Activation::Op::kSigmoid:
      return 1 / (1 + std::exp(-x));
    case Activation::Op::kHardSigmoid:
      return std::clamp(alpha * x + beta, 0.0, 1.0);
    case Activation::Op::kHardSwish:
      return x * std::clamp(x / 6 + 0.5, 0.0, 1.0);
    case Activation::Op::kSoftplus:
      return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
    case Activation::Op::kElu:
      return x < 0 ? alpha * std::expm1(x) : x;
    case Activation::Op::kTanh:
      return std::tanh(x);
    case Activation::Op::kErf:
      return std::erf(x);
    case Activation::Op::kGelu:
      return x * std::erfc(-x / std::sqrt(2.0)) / 2;
    case Activation::Op::kSwish:
      return x / (1 + std::exp(-(alpha * x + beta * x * x * x)));
    case Activation::Op::kMish:
      return x * std::tanh(std::log1p(std::exp(x)));
    case Activation::Op::kExp:
      return std::exp(x);
    case Activation::Op::kLog:
      return std::log(x);
    case Activation::Op::kSqrt:
      return std::sqrt(x);
    case Activation::Op::kThresholdedRelu:
      return x <= alpha ? 0 : x;
    case Activation::Op::kSin:
      return std::sin(x);
    case Activation::Op::kCos:
      return std::cos(x);
    case Activation::Op::kFloor:
      return std::floor(x);
    case Activation::Op::kCeil:
      return std::ceil(x);
    case Activation::Op::kRound:
      return std::nearbyint(x);
    case Activation::Op::kSign:
      return x > 0 ? 1 : x < 0 ? -1 : x;
    case Activation::Op::kNone:
      break;
  }
  return x;
}

// Each of them once, but for the steep ones.
inline constexpr Activation kActivations[] = {{Activation::Op::kNone, 0, 0},
                                              {Activation::Op::kRelu, 0, 0},
                                              {Activation::Op::kSigmoid, 0, 0},
                                              {Activation::Op::kHardSwish, 0, 0},
                                              {Activation::Op::kSoftplus, 0, 0},
                                              {Activation::Op::kClip, -0.5f, 0.75f},
                                              {Activation::Op::kLeakyRelu, 0.125f, 0},
                                              {Activation::Op::kHardSigmoid, 0.25f, 0.5f},
                                              {Activation::Op::kElu, -1.5f, 0},
                                              {Activation::Op::kTanh, 0, 0},
                                              {Activation::Op::kErf, 0, 0},
                                              {Activation::Op::kGelu, 0, 0},
                                              {Activation::Op::kSwish, 1.5f, 0.25f},
                                              {Activation::Op::kMish, 0, 0},
                                              {Activation::Op::kSin, 0, 0},
                                              {Activation::Op::kCos, 0, 0}};
inline constexpr std::int64_t kActivationCount = std::size(kActivations);

// Those that are so steep, or jump, that what rounds a layer's sums shows.
inline constexpr Activation kSteepActivations[] = {
    {Activation::Op::kExp, 0, 0},   {Activation::Op::kLog, 0, 0},
    {Activation::Op::kSqrt, 0, 0},  {Activation::Op::kThresholdedRelu, 0.25f, 0},
    {Activation::Op::kFloor, 0, 0}, {Activation::Op::kCeil, 0, 0},
    {Activation::Op::kRound, 0, 0}, {Activation::Op::kSign, 0, 0}};

}  // namespace masktools
