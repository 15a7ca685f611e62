// What is applied to a sum before it is written, told by name; functions.h computes it.
#pragma once

#include <cstdint>

namespace masktools {

// A function of one number, applied where a value is written.
struct Activation {
  enum class Op : std::int32_t {
    kNone,
    kRelu,
    kClip,
    kLeakyRelu,
    kSigmoid,
    kHardSigmoid,
    kHardSwish,
    kSoftplus,
    kElu,
    kTanh,
    kErf,
    kGelu,
    kSwish,
    kMish,
    kExp,
    kLog,
    kSqrt,
    kThresholdedRelu,
    kSin,
    kCos,
    kFloor,
    kCeil,
    kRound,
    kSign
  };

  Op op = Op::kNone;
  float alpha =
      0.0f;  // LeakyRelu, HardSigmoid, Elu, Swish, ThresholdedRelu; the lower bound of Clip
  float beta = 0.0f;  // HardSigmoid, Swish; the upper bound of Clip
};

}  // namespace masktools
