// Micro-kernels of depthwise convolutions: one plane of the output over a few rows at a time.
#pragma once

#include <array>
#include <cstdint>

#include "simd/epilogue.h"
#include "simd/pixels.h"

namespace masktools {

// Rows of the output that are computed together: they share what they read.
constexpr int kDepthwiseRows = 4;

// What is the same for all tiles of a layer. Steps are in elements.
struct DepthwiseCall {
  std::int64_t x_row, y_row, skip_row;
  std::int64_t next_row;      // in x, from one row of the output to the next
  std::int64_t tap_y, tap_x;  // from one tap to the next
  std::int64_t kernel_width;
  Bounds bounds;
  Activation activation;
  bool bounded;  // the activation is `bounds`
};

// Neighbouring lanes of some rows of an output plane, and the taps of them inside the image.
template <class T>
struct DepthwiseTile {
  const T* x;  // what tap (0, 0) of the first lane reads, inside or not
  T* y;
  const T* skip;  // or null
  const float* weights;
  float bias;
  std::int64_t lanes;
  std::int64_t written;  // the lanes, and zeros behind them
  Span rows;             // of x inside the image, from that of tap (0, 0) on
  Span taps_y, taps_x;   // inside the image, where those of all rows are the same
};

template <class T>
using DepthwiseKernel = void (*)(const DepthwiseCall&, const DepthwiseTile<T>&);

// The kernels of a layer, by the rows that they compute.
template <class T>
struct DepthwiseKernels {
  // Of 1 to kDepthwiseRows rows and all taps along x; of the rows that are read, all but `end` at
  // either end are inside. Null where there are none.
  std::array<DepthwiseKernel<T>, kDepthwiseRows> whole;
  std::int64_t end;

  // Of any taps, the same for all rows.
  DepthwiseKernel<T> rows, row;
};

// What decides between kernels.
struct DepthwiseShape {
  std::int64_t kernel_height, kernel_width;
  std::int64_t stride_y, dilation_y;

  // Lanes of a pixel where vectors hold every second pixel of x; 0 where they lie side by side.
  std::int64_t every_second = 0;
};

// The kernels of a layer. Throws std::invalid_argument where the pixels that are taken make no
// whole vectors. T: float or Bfloat16.
template <class T>
DepthwiseKernels<T> depthwise_kernels(const DepthwiseShape& shape);

}  // namespace masktools
