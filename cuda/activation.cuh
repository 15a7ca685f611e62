// The functions of one number that follow a layer; runtime/plan/steps.py tells the same ones.
#pragma once

namespace masktools {

enum ActivationOp {
  IDENTITY,
  RELU,
  CLIP,
  LEAKY_RELU,
  SIGMOID,
  HARD_SIGMOID,
  HARD_SWISH,
  SOFTPLUS,
  ELU,
  TANH,
  ERF,
  GELU,
  SWISH,
  MISH,
  EXP,
  LOG,
  SQRT,
  THRESHOLDED_RELU,
  SIN,
  COS,
  FLOOR,
  CEIL,
  ROUND,
  SIGN
};
constexpr int ANY = -1;  // no op: which one is known when the kernel runs

// 12 bytes, passed by value.
struct Activation {
  int op;  // an ActivationOp
  // The bounds of CLIP; of LEAKY_RELU, ELU and THRESHOLDED_RELU (alpha), HARD_SIGMOID and SWISH.
  float alpha, beta;
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

// x * sigmoid(alpha x + beta x^3). Without beta the cube, which overflows early, is left out.
__device__ __forceinline__ float swish(float x, float alpha, float beta) {
  return x * sigmoid(beta == 0 ? alpha * x : alpha * x + beta * x * x * x);
}

// By the complement, which keeps the digits that 1 + erf(x / sqrt(2)) loses below zero.
__device__ __forceinline__ float gelu(float x) { return 0.5f * x * erfcf(-0.707106781f * x); }

// x (s^2 + 2s) / (s^2 + 2s + 2) with s = exp(x), divided by s^2 above zero: expf cannot overflow.
__device__ __forceinline__ float mish(float x) {
  const float s = expf(-fabsf(x));
  const float above = x > 0 ? 1 + 2 * s : s * (s + 2);
  return x * (above / (above + (x > 0 ? 2 * s * s : 2)));
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
  if constexpr (OP == ELU) return x >= 0 ? x : activation.alpha * expm1f(x);
  if constexpr (OP == TANH) return tanhf(x);
  if constexpr (OP == ERF) return erff(x);
  if constexpr (OP == GELU) return gelu(x);
  if constexpr (OP == SWISH) return swish(x, activation.alpha, activation.beta);
  if constexpr (OP == MISH) return mish(x);
  if constexpr (OP == EXP) return expf(x);
  if constexpr (OP == LOG) return logf(x);
  if constexpr (OP == SQRT) return sqrtf(x);
  if constexpr (OP == THRESHOLDED_RELU) return x <= activation.alpha ? 0 : x;
  if constexpr (OP == SIN) return sinf(x);
  if constexpr (OP == COS) return cosf(x);
  if constexpr (OP == FLOOR) return floorf(x);
  if constexpr (OP == CEIL) return ceilf(x);
  if constexpr (OP == ROUND) return rintf(x);  // of two whole numbers as near, the even one
  if constexpr (OP == SIGN) return x > 0 ? 1 : x < 0 ? -1 : x;
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
    case ELU:
      return activate<ELU>(activation, x);
    case TANH:
      return activate<TANH>(activation, x);
    case ERF:
      return activate<ERF>(activation, x);
    case GELU:
      return activate<GELU>(activation, x);
    case SWISH:
      return activate<SWISH>(activation, x);
    case MISH:
      return activate<MISH>(activation, x);
    case EXP:
      return activate<EXP>(activation, x);
    case LOG:
      return activate<LOG>(activation, x);
    case SQRT:
      return activate<SQRT>(activation, x);
    case THRESHOLDED_RELU:
      return activate<THRESHOLDED_RELU>(activation, x);
    case SIN:
      return activate<SIN>(activation, x);
    case COS:
      return activate<COS>(activation, x);
    case FLOOR:
      return activate<FLOOR>(activation, x);
    case CEIL:
      return activate<CEIL>(activation, x);
    case ROUND:
      return activate<ROUND>(activation, x);
    case SIGN:
      return activate<SIGN>(activation, x);
    default:
      return x;
  }
}

}  // namespace masktools
