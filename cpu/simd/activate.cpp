#include "simd/activate.h"

#include <cstring>

#include "simd/functions.h"

namespace masktools {
namespace {

// The operation is a constant of each loop.
template <Activation::Op kOp>
void activate_as(float alpha, float beta, float* y, std::int64_t n) {
  const Activation activation{kOp, alpha, beta};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, apply(activation, load(y + i)));
  if (i == n) return;
  float rest[kLanes] = {};
  std::memcpy(rest, y + i, static_cast<std::size_t>(n - i) * sizeof(float));
  store(y + i, apply(activation, load(rest)), n - i);
}

}  // namespace

Vector activate(const Activation& activation, Vector x) { return apply(activation, x); }

void activate(const Activation& activation, float* y, std::int64_t n) {
  const float alpha = activation.alpha, beta = activation.beta;
  switch (activation.op) {
    case Activation::Op::kNone:
      return;
    case Activation::Op::kRelu:
      return activate_as<Activation::Op::kRelu>(alpha, beta, y, n);
    case Activation::Op::kClip:
      return activate_as<Activation::Op::kClip>(alpha, beta, y, n);
    case Activation::Op::kLeakyRelu:
      return activate_as<Activation::Op::kLeakyRelu>(alpha, beta, y, n);
    case Activation::Op::kSigmoid:
      return activate_as<Activation::Op::kSigmoid>(alpha, beta, y, n);
    case Activation::Op::kHardSigmoid:
      return activate_as<Activation::Op::kHardSigmoid>(alpha, beta, y, n);
    case Activation::Op::kHardSwish:
      return activate_as<Activation::Op::kHardSwish>(alpha, beta, y, n);
    case Activation::Op::kSoftplus:
      return activate_as<Activation::Op::kSoftplus>(alpha, beta, y, n);
    case Activation::Op::kElu:
      return activate_as<Activation::Op::kElu>(alpha, beta, y, n);
    case Activation::Op::kTanh:
      return activate_as<Activation::Op::kTanh>(alpha, beta, y, n);
    case Activation::Op::kErf:
      return activate_as<Activation::Op::kErf>(alpha, beta, y, n);
    case Activation::Op::kGelu:
      return activate_as<Activation::Op::kGelu>(alpha, beta, y, n);
    case Activation::Op::kSwish:
      return activate_as<Activation::Op::kSwish>(alpha, beta, y, n);
    case Activation::Op::kMish:
      return activate_as<Activation::Op::kMish>(alpha, beta, y, n);
    case Activation::Op::kExp:
      return activate_as<Activation::Op::kExp>(alpha, beta, y, n);
    case Activation::Op::kLog:
      return activate_as<Activation::Op::kLog>(alpha, beta, y, n);
    case Activation::Op::kSqrt:
      return activate_as<Activation::Op::kSqrt>(alpha, beta, y, n);
    case Activation::Op::kThresholdedRelu:
      return activate_as<Activation::Op::kThresholdedRelu>(alpha, beta, y, n);
    case Activation::Op::kSin:
      return activate_as<Activation::Op::kSin>(alpha, beta, y, n);
    case Activation::Op::kCos:
      return activate_as<Activation::Op::kCos>(alpha, beta, y, n);
    case Activation::Op::kFloor:
      return activate_as<Activation::Op::kFloor>(alpha, beta, y, n);
    case Activation::Op::kCeil:
      return activate_as<Activation::Op::kCeil>(alpha, beta, y, n);
    case Activation::Op::kRound:
      return activate_as<Activation::Op::kRound>(alpha, beta, y, n);
    case Activation::Op::kSign:
      return activate_as<Activation::Op::kSign>(alpha, beta, y, n);
  }
}

}  // namespace masktools
