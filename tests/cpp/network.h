// A 3x3 convolution packed in every way that the kernels know, and the same by its definition.
#pragma once

#include <cstdint>
#include <vector>

#include "../../cpu/layer.h"
#include "../../cpu/operation.h"

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
  bool over_skip = false;  // the output is written over the skip branch
};

// A packed layer, with the arena that it works on.
class PackedCase {
 public:
  explicit PackedCase(const Case& c);

  const Layer& layer() const { return layer_; }

  // Executes the items of a kernel of the layer, the last first, and compares what lies in the
  // arena then: the output, zeros in its halo, and all else as it was.
  template <class Kernel>
  void check(const Kernel& kernel) {
    std::vector<float> storage(arena_.size() + 2 * kSlack + 16);
    float* arena = aligned(storage.data() + kSlack);
    std::copy(arena_.begin(), arena_.end(), arena);
    std::vector<float> scratch_storage(kernel.scratch_elements() + 16);
    float* scratch = aligned(scratch_storage.data());
    for (std::int64_t item = kernel.items(); item-- > 0;) kernel.execute(item, arena, scratch);
    compare(arena);
  }

 private:
  static float* aligned(float* data);  // the next multiple of 64 bytes
  void lay_out();
  void choose_weights();
  void make_runs();
  void make_groups();
  void add_group(const std::vector<std::int32_t>& rows, const std::vector<std::int64_t>& columns,
                 std::int32_t flags);
  void point_layer();
  void compare(const float* arena) const;
  double expected(std::int64_t n, std::int64_t row, std::int64_t y, std::int64_t x) const;
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
  std::vector<std::int64_t> block_columns_;    // of each group, end to end; see make_groups

  Layer layer_;
  std::vector<std::int32_t> rows_list_, offsets_, tap_starts_, flags_, tap_sets_, masks_;
  std::vector<std::int64_t> row_starts_{0}, offset_starts_, weight_starts_, tap_set_starts_{0};
  std::vector<std::int64_t> chunk_starts_{0}, part_starts_{0}, panel_starts_{0};
  std::vector<float> packed_;
  std::vector<Run> runs_;
};

}  // namespace masktools
