// Dense 3x3 convolutions of stride 1 by the minimal filtering algorithm F(4x4, 3x3): 36
// multiplications make 16 outputs, which take 144 directly.
#pragma once

#include <cstdint>
#include <vector>

#include "program/arena.h"
#include "simd/activation.h"
#include "simd/epilogue.h"

namespace masktools {

// Products of a tile of 6 by 6 inputs.
constexpr int kPositions = 36;

// Rows that the weights hold next to each other.
constexpr std::int64_t kWinogradRows = 16;

// Values of either mode: element (c, y, x, n) is at offset + c * plane + (y * pitch + x) * batch +
// n. The interpolation points are 0, 3/4, -3/4, 4/3, -4/3 and infinity: with them, rounding errors
// are about twice those of direct summation, where those with 1 and 2 make them ten times as large.
struct WinogradLayer {
  Planes x, y, skip;  // skip.planes == 0: no skip add; skip has y's pitch
  std::int64_t height = 0, width = 0, x_pitch = 0;          // of x
  std::int64_t out_height = 0, out_width = 0, y_pitch = 0;  // of y
  std::int64_t halo = 0;  // pixels of zeros that are written before the first row and after each
  std::int64_t batch = 0;
  std::int64_t pad_top = 0, pad_left = 0;

  // [ceil(y.planes / kWinogradRows)][36][x.planes][kWinogradRows]: G w G', zeros for rows beyond.
  Array<float> weights;
  Array<float> bias;  // [y.planes], or empty for zeros
  Activation activation;

  std::int64_t vectors = 2;         // lanes of a block, in vectors: 1 or even, up to 8
  std::int64_t row_blocks = 4;      // blocks of rows whose products are kept before they are
                                    // transformed back
  std::int64_t parts = 1;           // the rows of a block are shared by so many items
  std::int64_t arena_elements = 0;  // without the slack at both ends
};

// A checked layer, cut into items that may be executed in any order and by any thread. A lane is
// one tile of 4 by 4 outputs of one sample. An item transforms the input of a block of lanes into
// scratch, and multiplies and transforms back 16 rows at a time.
//
// The transforms spread an input that is infinite or NaN over its whole tile, and may overflow
// where the sums by definition do not: outputs that are not finite are computed again by
// definition.
class Winograd {
 public:
  // Throws std::invalid_argument, naming what is wrong.
  explicit Winograd(const WinogradLayer& layer);

  std::int64_t items() const { return blocks_ * layer_.parts; }

  // Elements of scratch that `execute` needs, for each thread; 64-byte aligned.
  std::int64_t scratch_elements() const;

  // Executes one item. `arena` is element 0; 64-byte aligned.
  void execute(std::int64_t item, float* arena, float* scratch) const;

 private:
  // Lanes that lie side by side in memory: `samples` of one tile, or all samples of some tiles
  // of one row of tiles.
  struct Segment {
    std::int64_t tile_y, tile_x, tiles, first_sample, samples;
    std::int64_t lane;  // its first, within its block
  };

  std::int64_t block_lanes() const;
  std::int64_t rows_at_once() const;
  void collect_segments();
  bool is_one_tile(std::int64_t block) const;
  void transform_columns(std::int64_t block, const float* arena, float* columns, float* tile) const;
  void multiply_columns(std::int64_t first, std::int64_t count, const float* columns,
                        float* products) const;
  void gather(std::int64_t block, const float* image, float* tile,
              const float* (&in)[kPositions]) const;
  void scatter(std::int64_t block, std::int64_t row, float* tile, float* arena, float* line) const;
  void recompute(std::int64_t block, std::int64_t row, const float* arena, float* tile,
                 float* scratch) const;
  void activate_tile(std::int64_t row, float* tile) const;
  void finish(float* sums, std::int64_t lanes, std::int64_t row, std::int64_t at,
              float* arena) const;

  WinogradLayer layer_;
  Bounds bounds_;
  bool bounded_ = false;  // no activation but bounds
  // Whether the bias is added, and sums are activated, before they are put in the order of pixels:
  // where nothing else joins them.
  bool activated_first_ = false;
  std::int64_t blocks_ = 0;
  std::vector<Segment> segments_;
  std::vector<std::int64_t> segment_starts_;  // of each block
};

}  // namespace masktools
