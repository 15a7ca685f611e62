#include "simd/activate.h"

#include "simd/epilogue.h"
#include "simd/vector.h"

namespace masktools {
namespace {

// The operation is a constant of each loop.
template <Activation::Op kOp>
void activate_as(float alpha, float beta, float* y, std::int64_t n) {
  const Activation activation{kOp, alpha, beta};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, activate(activation, load(y + i)));
  for (; i < n; ++i) y[i] = activate(activation, y[i]);
}

}  // namespace

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
  }
}

}  // namespace masktools
