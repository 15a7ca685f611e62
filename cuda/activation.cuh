// The functions of one number that follow a layer; runtime/plan/steps.py tells the same ones.
#pragma once

namespace masktools {

enum ActivationOp { IDENTITY, RELU, CLIP, LEAKY_RELU, SIGMOID, HARD_SIGMOID, HARD_SWISH, SOFTPLUS };
constexpr int ANY = -1;  // no op: which one is known when the kernel runs

// 12 bytes, passed by value.
struct Activation {
  int op;             // an ActivationOp
  float alpha, beta;  // the bounds of CLIP; of LEAKY_RELU (alpha) and HARD_SIGMOID
};

// Comparisons stand so that a NaN comes out as a NaN.
__device__ __forceinline__ float clip(float x, float low, float high) {
  const float y = x < low ? low : x;
  return y > high ? high : y;
}

__device__ __forceinline__ float sigmoid(float x) {
  const float small = expf(-fabsf(x));  // expf of a large x would overflow
  return (x >= 0 ? 1.0f : small) / (1.0f + small);
}

__device__ __forceinline__ float softplus(float x) {
  return (x > 0 ? x : 0) + log1pf(expf(-fabsf(x)));
}

// An activation that is known when a kernel is compiled: an epilogue repeats it for each sum.
template <int OP>
__device__ __forceinline__ float activate(const Activation& activation, float x) {
  if constexpr (OP == RELU) return x < 0 ? 0 : x;
  if constexpr (OP == CLIP) return clip(x, activation.alpha, activation.beta);
  if constexpr (OP == LEAKY_RELU) return x >= 0 ? x : activation.alpha * x;
  if constexpr (OP == SIGMOID) return sigmoid(x);
  if constexpr (OP == HARD_SIGMOID) return clip(activation.alpha * x + activation.beta, 0, 1);
  if constexpr (OP == HARD_SWISH) return x * clip(x / 6 + 0.5f, 0, 1);
  if constexpr (OP == SOFTPLUS) return softplus(x);
  return x;
}

// An activation that is known when a kernel runs, for kernels that wait for memory anyhow.
__device__ __forceinline__ float activate(const Activation& activation, float x) {
  switch (activation.op) {
    case RELU:
      return activate<RELU>(activation, x);
    case CLIP:
      return activate<CLIP>(activation, x);
    case LEAKY_RELU:
      return activate<LEAKY_RELU>(activation, x);
    case SIGMOID:
      return activate<SIGMOID>(activation, x);
    case HARD_SIGMOID:
      return activate<HARD_SIGMOID>(activation, x);
    case HARD_SWISH:
      return activate<HARD_SWISH>(activation, x);
    case SOFTPLUS:
      return activate<SOFTPLUS>(activation, x);
    default:
      return x;
  }
}

}  // namespace masktools
