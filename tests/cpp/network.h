// A 3x3 convolution packed in every way that the kernels know, and the same by its definition.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/grouped/layer.h"
#include "program/operation.h"

namespace masktools {

// What is tried. Pads are 1 on each side.
struct Case {
  std::int64_t batch, channels, rows, height, width, stride;
  bool pixel_mode;          // else plane mode, which needs stride 1
  std::int64_t group_rows;  // of the blocks; the rest is added row by row
  double block_share;       // of the columns that a block has
  double row_share;         // of those left that a row has
  bool skip;
  Activation activation;
  std::uint32_t seed;
  bool over_skip = false;             // the output is written over the skip branch
  Combine pooling = Combine::kStore;  // of windows of 2x2, in pixel mode
  bool bfloat16 = false;              // numbers are such
  bool apart = false;                 // runs go from pixel to pixel, a vector of each; not pooled
};

// A packed layer, with the arena that it works on.
class PackedCase {
 public:
  explicit PackedCase(const Case& c);

  const Layer& layer() const { return layer_; }

  // What kernels of the layer work on.
  const std::vector<float>& arena() const { return arena_; }

  // Checks what a kernel leaves there: the output, zeros in its halo, and all else as it was.
  // `tolerance` is of a sum of one channel.
  void compare(const std::vector<float>& arena, double tolerance = 1e-5) const;

 private:
  void lay_out();
  void choose_weights();
  void make_runs();
  void add_parts(Run run);
  void make_groups();
  void add_group(const std::vector<std::int32_t>& rows, const std::vector<std::int64_t>& columns,
                 std::int32_t flags);
  void point_layer();
  double expected(std::int64_t n, std::int64_t row, std::int64_t y, std::int64_t x) const;
  double sum(std::int64_t n, std::int64_t row, std::int64_t y, std::int64_t x) const;
  std::int64_t window() const { return c_.pooling == Combine::kStore ? 1 : 2; }
  float weight(std::int64_t row, std::int64_t column) const {
    return weights_[row * c_.channels * 9 + column];
  }
  std::int64_t at(std::int64_t y, std::int64_t x, std::int64_t pitch) const {
    return (y * pitch + x) * lanes_;
  }

  Case c_;
  std::int64_t out_height_, out_width_, lanes_, pitch_, out_pitch_;
  Planes x_, y_, skip_;
  std::vector<float> arena_, weights_, bias_;  // weights: [row][channel * 9 + tap]

  Layer layer_;
  std::vector<std::int32_t> rows_list_, offsets_, tap_starts_, flags_, tap_sets_, masks_;
  std::vector<std::int64_t> row_starts_{0}, offset_starts_, weight_starts_, tap_set_starts_{0};
  std::vector<std::int64_t> chunk_starts_{0}, part_starts_{0}, panel_starts_{0};
  std::vector<float> packed_;
  std::vector<Run> runs_;
};

}  // namespace masktools
