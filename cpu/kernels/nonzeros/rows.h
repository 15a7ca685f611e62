// Executes convolutions whose weights are rows of nonzeros, each row by itself: nothing is shared
// between rows but the inputs, so those are what is kept near.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/grouped/layer.h"
#include "kernels/nonzeros/window.h"

namespace masktools {

// A convolution by rows of nonzeros. Values are images as in window.h.
struct RowsLayer {
  Planes x, y, skip;      // skip.planes == 0: no skip add; skip has y's pitch
  ImageShape in, out;     // of the same batch; `out` is what is written, of the pooled size
  std::int64_t halo = 0;  // pixels of zeros written before the first row of y and after each
  Taps taps;

  // Nonzeros by panel of channels, then by row: starts[panel * rows + row], and the end of all.
  // Column: (channel within its panel) * taps + tap.
  Array<float> weights;
  Array<std::uint16_t> columns;
  Array<std::int32_t> starts;  // [panels * y.planes + 1]
  std::int64_t panel_channels = 0;

  Array<float> bias;  // [y.planes], or empty for zeros
  Activation activation;

  // Pooling windows side by side, which the convolution writes into: kStore where there are none.
  Combine combine = Combine::kStore;
  std::int64_t pool_y = 1, pool_x = 1;
  float scale = 1.0f;  // of what is combined

  TileShape tile;  // of the convolution's outputs; whole pooling windows
  Copies copies = Copies::kNone;
  std::int64_t parts = 1;           // the rows of a tile are shared by so many items
  std::int64_t arena_elements = 0;  // without the slack at both ends
};

// A checked layer, cut into items that may be executed in any order and by any thread. An item
// packs the window of a tile, a panel of channels at a time, and goes over all its rows; sums of
// panels are kept in scratch.
class Rows {
 public:
  // Throws std::invalid_argument, naming what is wrong.
  explicit Rows(const RowsLayer& layer);

  std::int64_t items() const { return tiles_y_ * tiles_x_ * blocks_ * layer_.parts; }

  // Elements of scratch that `execute` needs, for each thread; 64-byte aligned.
  std::int64_t scratch_elements() const;

  // Executes one item. `arena` is element 0; 64-byte aligned.
  void execute(std::int64_t item, float* arena, float* scratch) const;

 private:
  // The outputs of an item, which end with the map.
  struct Tile {
    std::int64_t y, x, sample;
    TileShape shape;
  };

  void check() const;
  void place_nonzeros();
  Tile tile_of(std::int64_t item) const;
  std::int64_t window_elements() const;
  void finish(const Tile& tile, std::int64_t row, std::int64_t vectors, float* sums,
              float* arena) const;
  template <class F>
  void each_stretch(const Tile& tile, const F& f) const;
  void prefetch(const Tile& tile, std::int64_t first, std::int64_t last, const float* arena) const;
  void activate_row(std::int64_t row, std::int64_t vectors, float* sums) const;
  void pool(const Tile& tile, const float* sums, float* y) const;
  void zero_halo(const Tile& tile, float* y) const;

  RowsLayer layer_;
  InputWindow window_;
  std::int64_t panels_ = 0;
  std::int64_t tiles_y_ = 0, tiles_x_ = 0, blocks_ = 0;  // blocks of samples
  std::vector<std::uint16_t> offsets_;  // of each nonzero's input, within the window of its panel
};

}  // namespace masktools
