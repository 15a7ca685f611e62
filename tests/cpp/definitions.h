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
    case Activation::Op::kNone:
      break;
  }
  return x;
}

// Each of them once.
inline constexpr Activation kActivations[] = {
    {Activation::Op::kNone, 0, 0},           {Activation::Op::kRelu, 0, 0},
    {Activation::Op::kSigmoid, 0, 0},        {Activation::Op::kHardSwish, 0, 0},
    {Activation::Op::kSoftplus, 0, 0},       {Activation::Op::kClip, -0.5f, 0.75f},
    {Activation::Op::kLeakyRelu, 0.125f, 0}, {Activation::Op::kHardSigmoid, 0.25f, 0.5f}};
inline constexpr std::int64_t kActivationCount = std::size(kActivations);

}  // namespace masktools
