// Depthwise convolutions: each plane of the output reads one plane of the input.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "program/arena.h"
#include "program/operation.h"
#include "program/view.h"
#include "simd/activation.h"

namespace masktools {

// Values are (lanes, channels, height, width), lanes next to each other. Where they fill whole
// vectors, vectors lie within pixels, and taps in the padding are left out. Else vectors run along
// the pixels of a row, which lie side by side in x and in y, at a stride of 1 or 2; then x has
// zeros beside its rows wherever a tap reaches beyond them, and of lanes / kLanes pixels a whole
// number makes a vector where the stride is 2.
struct DepthwiseLayer {
  View x, y, skip;        // skip.rank == 0: no skip add
  std::int64_t halo = 0;  // pixels of zeros that are written before y's first row and after each
  std::array<std::int64_t, 2> kernel{1, 1}, strides{1, 1}, dilations{1, 1}, pads{0, 0};
  Array<float> weights;  // [y's channels][taps]; plane r of y reads plane r / multiplier of x
  Array<float> bias;     // [y's channels], or empty for zeros
  Activation activation;
  std::int64_t strips = 1;  // of rows, and parts of the channels: each strip of a part is an item
  std::int64_t parts = 1;
  std::int64_t arena_elements = 0;  // without the slack at both ends
};

// Throws std::invalid_argument, naming what is wrong, if anything would be read or written outside
// the arena. T: float or Bfloat16; sums are float, and rounded once.
template <class T>
std::unique_ptr<const Operation> make_depthwise(const DepthwiseLayer& layer);

}  // namespace masktools
