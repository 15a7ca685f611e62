#include "kernels/nonzeros/rows.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "kernels/nonzeros/row_kernel.h"
#include "simd/epilogue.h"
#include "simd/vector.h"
#include "simd/whole_numbers.h"

namespace masktools {
namespace {

constexpr std::int64_t kLargest = std::int64_t{1} << 20;  // three of them multiply within 64 bits
constexpr std::int64_t kLargestTap = std::int64_t{1} << 12;

// Elements of a window: those that offsets of 16 bits reach.
constexpr std::int64_t kWindowElements = std::int64_t{1} << 16;

// Rows whose sums are finished at once: as few as make calls of kernels cheap, so that the sums are
// still near.
constexpr std::int64_t kRowsAtOnce = 4;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("rows: " + what); }

bool within(std::int64_t value, std::int64_t low, std::int64_t high) {
  return low <= value && value <= high;
}

// Throws where planes do not lie in the arena, `halo` pixels before the first included.
void check_image(const Planes& planes, const ImageShape& image, std::int64_t halo,
                 std::int64_t arena_elements, const std::string& what) {
  for (std::int64_t n : {planes.planes, image.height, image.width, image.pitch, image.batch}) {
    if (!within(n, 1, kLargest)) refuse(what + " has an impossible size");
  }
  if (!within(halo, 0, kLargest) || image.width + halo > image.pitch) {
    refuse(what + " has an impossible pitch");
  }
  // A last row ends with its pixels: of a slice of the samples, what follows is not its own.
  const std::int64_t plane = ((image.height - 1) * image.pitch + image.width + halo) * image.batch;
  const std::int64_t end = arena_elements - plane;  // the last plane begins there at most
  if (!within(planes.offset, halo * image.batch, end) || planes.plane < plane ||
      (planes.planes > 1 && planes.plane > (end - planes.offset) / (planes.planes - 1))) {
    refuse(what + " leaves the arena");
  }
}

// The layer, if windows may be laid out for it: no product of its sizes overflows.
const RowsLayer& checked(const RowsLayer& layer) {
  const Taps& t = layer.taps;
  for (std::int64_t n :
       {t.kernel_y, t.kernel_x, t.stride_y, t.stride_x, t.dilation_y, t.dilation_x}) {
    if (!within(n, 1, kLargestTap)) refuse("impossible taps");
  }
  for (std::int64_t n : {t.pad_top, t.pad_left}) {
    if (!within(n, 0, kLargestTap - 1)) refuse("impossible taps");
  }
  // Every tap has an element of its own; so many are not even laid out.
  if (t.count() > kWindowElements) refuse("the window of a panel is too large");
  for (std::int64_t n : {layer.tile.rows, layer.tile.pixels, layer.tile.samples}) {
    if (!within(n, 1, kRowVectors * kLanes)) refuse("impossible tile");
  }
  if (!within(static_cast<std::int64_t>(layer.copies), 0, 2)) refuse("no such copies");
  if (layer.copies == Copies::kColumns && t.stride_y != 1) refuse("copies of columns at a stride");
  return layer;
}

}  // namespace

Rows::Rows(const RowsLayer& layer)
    : layer_(checked(layer)), window_(layer.taps, layer.tile, layer.copies) {
  check();
  const auto tiles = [](std::int64_t size, std::int64_t pool, std::int64_t tile) {
    return ceil_div(size * pool, tile);
  };
  tiles_y_ = tiles(layer.out.height, layer.pool_y, layer.tile.rows);
  tiles_x_ = tiles(layer.out.width, layer.pool_x, layer.tile.pixels);
  blocks_ = ceil_div(layer.out.batch, layer.tile.samples);
  place_nonzeros();
}

void Rows::check() const {
  const RowsLayer& l = layer_;
  check_image(l.x, l.in, 0, l.arena_elements, "x");
  check_image(l.y, l.out, l.halo, l.arena_elements, "y");
  if (l.skip.planes != 0) check_image(l.skip, l.out, 0, l.arena_elements, "skip");
  if (l.skip.planes != 0 && l.skip.planes != l.y.planes) refuse("skip has other planes than y");
  if (l.in.batch != l.out.batch) refuse("x and y differ in batch");
  if (!within(l.parts, 1, l.y.planes)) refuse("impossible parts");
  if (l.bias.size != 0 && l.bias.size != l.y.planes) refuse("bias of another size");
  if (window_.kernel_rows() * window_.kernel_vectors() > kRowVectors) refuse("tile too large");
  const bool pooled = l.combine != Combine::kStore;
  if (!within(static_cast<std::int64_t>(l.combine), 0, 2) || !within(l.pool_y, 1, l.tile.rows) ||
      !within(l.pool_x, 1, l.tile.pixels) || l.tile.rows % l.pool_y != 0 ||
      l.tile.pixels % l.pool_x != 0 || (!pooled && l.pool_y * l.pool_x != 1)) {
    refuse("impossible pooling");
  }
  if (pooled && (l.skip.planes != 0 || l.halo != 0)) {
    refuse("pooling goes with no skip branch and no halo");
  }
  if (!within(l.panel_channels, 1, l.x.planes)) refuse("impossible panels");
  if (window_.channel_elements() > kWindowElements / l.panel_channels) {
    refuse("the window of a panel is too large");
  }
}

// Turns the columns of nonzeros into the offsets of their inputs.
void Rows::place_nonzeros() {
  const RowsLayer& l = layer_;
  panels_ = ceil_div(l.x.planes, l.panel_channels);
  if (l.starts.size != panels_ * l.y.planes + 1 || l.starts[0] != 0 ||
      l.starts[l.starts.size - 1] != l.weights.size || l.columns.size != l.weights.size ||
      !std::is_sorted(l.starts.data, l.starts.data + l.starts.size)) {
    refuse("starts are not starts of the nonzeros");
  }
  const std::int64_t taps = l.taps.count();
  std::vector<std::uint16_t> offset_of(static_cast<std::size_t>(l.panel_channels * taps));
  for (std::size_t column = 0; column < offset_of.size(); ++column) {
    const std::int64_t at = static_cast<std::int64_t>(column);
    offset_of[column] = static_cast<std::uint16_t>(at / taps * window_.channel_elements() +
                                                   window_.tap_offset(at % taps));
  }
  offsets_.resize(static_cast<std::size_t>(l.columns.size));
  for (std::int64_t panel = 0; panel < panels_; ++panel) {
    // The last may have fewer channels: the window holds others' inputs behind them.
    const std::int64_t channels = std::min(l.panel_channels, l.x.planes - panel * l.panel_channels);
    const std::int64_t end = l.starts[(panel + 1) * l.y.planes];
    for (std::int64_t k = l.starts[panel * l.y.planes]; k < end; ++k) {
      if (l.columns[k] >= channels * taps) refuse("a column is not of its panel");
      offsets_[k] = offset_of[l.columns[k]];
    }
  }
}

std::int64_t Rows::window_elements() const {
  // Kernels read all vectors of a tile, beyond what is packed.
  return layer_.panel_channels * window_.channel_elements() +
         window_.kernel_rows() * window_.kernel_pitch() + kRowVectors * kLanes;
}

std::int64_t Rows::scratch_elements() const {
  const std::int64_t vectors = window_.kernel_rows() * window_.kernel_vectors();
  const std::int64_t rows = ceil_div(layer_.y.planes, layer_.parts) + 1;
  // Rows are finished in vectors that may end beyond their sums.
  return ceil_div(window_elements(), kLanes) * kLanes + (rows * vectors + 1) * kLanes;
}

Rows::Tile Rows::tile_of(std::int64_t item) const {
  // Blocks of samples lie side by side in memory: they follow each other.
  const std::int64_t number = item / layer_.parts;
  const std::int64_t block = number % blocks_, at = number / blocks_;
  const std::int64_t height = layer_.out.height * layer_.pool_y;
  const std::int64_t width = layer_.out.width * layer_.pool_x;
  const TileShape& full = layer_.tile;
  Tile tile{at / tiles_x_ * full.rows, at % tiles_x_ * full.pixels, block * full.samples, full};
  tile.shape.rows = std::min(full.rows, height - tile.y);
  tile.shape.pixels = std::min(full.pixels, width - tile.x);
  tile.shape.samples = std::min(full.samples, layer_.out.batch - tile.sample);
  return tile;
}

void Rows::execute(std::int64_t item, float* arena, float* scratch) const {
  const RowsLayer& l = layer_;
  const Tile tile = tile_of(item);
  const std::int64_t part = item % l.parts;
  const std::int64_t first = part * l.y.planes / l.parts;
  const std::int64_t last = (part + 1) * l.y.planes / l.parts;
  const std::int64_t kernel_rows =
      window_.kernel_rows() == 1 ? 1 : std::min(window_.kernel_rows(), tile.shape.rows);
  const RowKernel kernel = row_kernel(kernel_rows, window_.kernel_vectors());
  const std::int64_t row_sums = kernel_rows * window_.kernel_vectors() * kLanes;
  float* sums = scratch + ceil_div(window_elements(), kLanes) * kLanes;
  std::vector<InputWindow::Piece> pieces;
  window_.pieces(l.in, tile.y, tile.x, tile.sample, tile.shape.samples, &pieces);
  // The padding lies in the same places for all channels.
  std::fill_n(scratch, l.panel_channels * window_.channel_elements(), 0.0f);
  for (std::int64_t panel = 0; panel < panels_; ++panel) {
    const std::int64_t channel = panel * l.panel_channels;
    window_.pack(l.in, pieces, arena + l.x.offset + channel * l.x.plane, l.x.plane,
                 std::min(l.panel_channels, l.x.planes - channel), scratch);
    for (std::int64_t row = first; row < last; row += kRowsAtOnce) {
      const std::int64_t rows = std::min(kRowsAtOnce, last - row);
      const bool ends = panel + 1 == panels_;
      if (ends) {
        prefetch(tile, row + rows, std::min(row + 2 * rows, last), arena);
      } else {
        // A share of the next panel's inputs with each few rows.
        const std::int64_t next = channel + l.panel_channels;
        const std::int64_t count = std::min(l.panel_channels, l.x.planes - next);
        const std::int64_t begin = (row - first) * count / (last - first);
        const std::int64_t end = (row + rows - first) * count / (last - first);
        window_.fetch(l.in, pieces, arena + l.x.offset + (next + begin) * l.x.plane, l.x.plane,
                      end - begin);
      }
      float* of_rows = sums + (row - first) * row_sums;
      const Nonzeros nonzeros{l.weights.data, offsets_.data(),
                              l.starts.data + panel * l.y.planes + row};
      kernel(nonzeros, rows, scratch, window_.kernel_pitch(), panel > 0, of_rows);
      for (std::int64_t r = 0; ends && r < rows; ++r) {
        finish(tile, row + r, row_sums / kLanes, of_rows + r * row_sums, arena);
      }
    }
  }
}

// Calls f(at, from, lanes) for the lanes that lie side by side in the output, from element `at` of
// its planes, and among the sums, from `from`: a row of pixels, or some samples of one.
template <class F>
void Rows::each_stretch(const Tile& tile, const F& f) const {
  const ImageShape& out = layer_.out;
  const std::int64_t samples = layer_.tile.samples;
  for (std::int64_t i = 0; i < tile.shape.rows; ++i) {
    const std::int64_t pixel = (tile.y + i) * out.pitch + tile.x;
    const std::int64_t from = i * window_.sums_pitch();
    if (samples == out.batch) {
      f(pixel * out.batch, from, tile.shape.pixels * samples);
      continue;
    }
    for (std::int64_t k = 0; k < tile.shape.pixels; ++k) {
      f((pixel + k) * out.batch + tile.sample, from + k * samples, tile.shape.samples);
    }
  }
}

// Fetches what finishing rows [first, last) of a tile will read and write.
void Rows::prefetch(const Tile& tile, std::int64_t first, std::int64_t last,
                    const float* arena) const {
  const RowsLayer& l = layer_;
  if (l.combine != Combine::kStore) return;
  for (std::int64_t row = first; row < last; ++row) {
    const float* y = arena + l.y.offset + row * l.y.plane;
    const float* skip = arena + l.skip.offset + row * l.skip.plane;
    each_stretch(tile, [&](std::int64_t at, std::int64_t, std::int64_t lanes) {
      for (std::int64_t lane = 0; lane < lanes; lane += kLanes) {
        __builtin_prefetch(y + at + lane, 1);
        if (l.skip.planes) __builtin_prefetch(skip + at + lane);
      }
    });
  }
}

// Finishes the sums of a row of a tile, and writes them.
void Rows::finish(const Tile& tile, std::int64_t row, std::int64_t vectors, float* sums,
                  float* arena) const {
  const RowsLayer& l = layer_;
  if (l.skip.planes) {
    const float* skip = arena + l.skip.offset + row * l.skip.plane;
    each_stretch(tile, [&](std::int64_t at, std::int64_t from, std::int64_t lanes) {
      for (std::int64_t lane = 0; lane < lanes; lane += kLanes) {
        float* to = sums + from + lane;
        store(to, load(to) + load(skip + at + lane), std::min<std::int64_t>(kLanes, lanes - lane));
      }
    });
  }
  activate_row(row, vectors, sums);
  float* y = arena + l.y.offset + row * l.y.plane;
  if (l.combine != Combine::kStore) {
    pool(tile, sums, y);
    return;
  }
  each_stretch(tile, [&](std::int64_t at, std::int64_t from, std::int64_t lanes) {
    for (std::int64_t lane = 0; lane < lanes; lane += kLanes) {
      store(y + at + lane, load(sums + from + lane), std::min<std::int64_t>(kLanes, lanes - lane));
    }
  });
  if (l.halo) zero_halo(tile, y);
}

// Adds the bias to the sums of a row, and applies the activation.
void Rows::activate_row(std::int64_t row, std::int64_t vectors, float* sums) const {
  const float bias = layer_.bias.size ? layer_.bias[row] : 0.0f;
  const auto apply = [&](auto function) {
    for (std::int64_t v = 0; v < vectors; ++v) {
      store(sums + v * kLanes, function(load(sums + v * kLanes) + bias));
    }
  };
  Bounds bounds;
  if (is_bounds(layer_.activation, &bounds)) {
    const Vector low = broadcast(bounds.low), high = broadcast(bounds.high);
    apply([&](Vector v) { return clamp(v, low, high); });
  } else {
    apply([](Vector v) { return v; });
    activate(layer_.activation, sums, vectors * kLanes);
  }
}

// Combines the outputs of each pooling window, and writes what they make.
void Rows::pool(const Tile& tile, const float* sums, float* y) const {
  const RowsLayer& l = layer_;
  for (std::int64_t i = 0; i < tile.shape.rows; i += l.pool_y) {
    for (std::int64_t k = 0; k < tile.shape.pixels; k += l.pool_x) {
      const std::int64_t pixel = (tile.y + i) / l.pool_y * l.out.pitch + (tile.x + k) / l.pool_x;
      float* to = y + pixel * l.out.batch + tile.sample;
      for (std::int64_t lane = 0; lane < tile.shape.samples; lane += kLanes) {
        const float* from = sums + i * window_.sums_pitch() + k * l.tile.samples + lane;
        Vector made = load(from) * l.scale;
        for (std::int64_t p = 1; p < l.pool_y * l.pool_x; ++p) {
          const Vector v =
              load(from + p / l.pool_x * window_.sums_pitch() + p % l.pool_x * l.tile.samples) *
              l.scale;
          made = l.combine == Combine::kMax ? maximum(v, made) : made + v;
        }
        store(to + lane, made, std::min<std::int64_t>(kLanes, tile.shape.samples - lane));
      }
    }
  }
}

// Writes the zeros before the first row, and after the rows that end with this tile.
void Rows::zero_halo(const Tile& tile, float* y) const {
  const ImageShape& out = layer_.out;
  const auto zero = [&](std::int64_t pixel) {
    for (std::int64_t k = 0; k < layer_.halo; ++k) {
      std::fill_n(y + (pixel + k) * out.batch + tile.sample, tile.shape.samples, 0.0f);
    }
  };
  if (tile.y == 0 && tile.x == 0) zero(-layer_.halo);
  if (tile.x + tile.shape.pixels < out.width) return;
  for (std::int64_t i = 0; i < tile.shape.rows; ++i) zero((tile.y + i) * out.pitch + out.width);
}

}  // namespace masktools
