#include "kernels/winograd.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels/winograd_pixels.h"
#include "kernels/winograd_transform.h"
#include "simd/epilogue.h"
#include "simd/pixels.h"
#include "simd/vector.h"
#include "simd/whole_numbers.h"

namespace masktools {
namespace {

constexpr std::int64_t kGap = 16;
constexpr int kOutputs = kTileOut * kTileOut;             // of a tile
constexpr std::int64_t kLargest = std::int64_t{1} << 28;  // two of them multiply within 64 bits

[[noreturn]] void refuse(const std::string& what) {
  throw std::invalid_argument("winograd: " + what);
}

// Elements from one position of a matrix to the next. Without the gap, the 36 entries that a
// transform writes or reads would often fall into one set of the cache.
std::int64_t position_stride(std::int64_t rows, std::int64_t lanes) { return rows * lanes + kGap; }

// Puts the outputs of one row of tiles in the order of their pixels. Whole vectors may be written.
void interleave(const float* from, std::int64_t lanes, std::int64_t tiles, std::int64_t batch,
                float* to) {
  if (batch == 1) return put_together(from, lanes, tiles, to);
  for (std::int64_t t = 0; t < tiles; ++t) {
    for (int j = 0; j < kTileOut; ++j) {
      std::copy_n(from + j * lanes + t * batch, batch, to + (t * kTileOut + j) * batch);
    }
  }
}

// Whether `planes` planes of `rows` rows lie in an arena.
bool fits(const Planes& value, std::int64_t rows, std::int64_t pitch, std::int64_t batch,
          std::int64_t arena_elements) {
  for (std::int64_t n : {value.planes, rows, pitch, batch}) {
    if (n < 1 || n > kLargest) return false;
  }
  if (pitch > arena_elements / rows || pitch * rows > arena_elements / batch) return false;
  const std::int64_t plane = pitch * rows * batch;
  const std::int64_t end = arena_elements - plane;  // the last plane begins there at most
  if (value.offset < 0 || value.offset > end || value.plane < plane) return false;
  return value.planes == 1 || value.plane <= (end - value.offset) / (value.planes - 1);
}

}  // namespace

Winograd::Winograd(const WinogradLayer& layer) : layer_(layer) {
  const std::int64_t arena = layer.arena_elements;
  const std::int64_t rows = layer.y.planes;
  if (layer.width > layer.x_pitch || layer.halo < 0 || layer.halo > kLargest ||
      layer.out_width + layer.halo > layer.y_pitch) {
    refuse("impossible pitch");
  }
  if (layer.width < 1 || layer.out_width < 1) refuse("impossible width");
  if (!fits(layer.x, layer.height, layer.x_pitch, layer.batch, arena)) refuse("x leaves the arena");
  if (!fits(layer.y, layer.out_height, layer.y_pitch, layer.batch, arena)) {
    refuse("y leaves the arena");
  }
  if (layer.halo * layer.batch > layer.y.offset) refuse("y's halo leaves the arena");
  if (layer.skip.planes != 0 &&
      (layer.skip.planes != rows ||
       !fits(layer.skip, layer.out_height, layer.y_pitch, layer.batch, arena))) {
    refuse("skip leaves the arena, or has other planes than y");
  }
  if (std::min(layer.pad_top, layer.pad_left) < 0 ||
      std::max(layer.pad_top, layer.pad_left) > kLargest) {
    refuse("impossible padding");
  }
  const std::int64_t weights = ceil_div(rows, kWinogradRows) * kPositions * kWinogradRows;
  if (layer.weights.size != weights * layer.x.planes) refuse("weights of another size");
  if (layer.bias.size != 0 && layer.bias.size != rows) refuse("bias of another size");
  if (layer.vectors != 1 && (layer.vectors < 1 || layer.vectors > 8 || layer.vectors % 2 != 0)) {
    refuse("a block has 1, 2, 4, 6 or 8 vectors of lanes");
  }
  if (layer.row_blocks < 1 || layer.row_blocks > kLargest) refuse("impossible row_blocks");
  if (layer.parts < 1 || layer.parts > ceil_div(rows, kWinogradRows)) refuse("impossible parts");
  bounded_ = is_bounds(layer.activation, &bounds_);
  activated_first_ = !bounded_ && layer.skip.planes == 0;
  collect_segments();
}

std::int64_t Winograd::block_lanes() const { return layer_.vectors * kLanes; }

std::int64_t Winograd::rows_at_once() const {
  const std::int64_t blocks = ceil_div(layer_.y.planes, kWinogradRows);
  return std::min(layer_.row_blocks, blocks) * kWinogradRows;
}

std::int64_t Winograd::scratch_elements() const {
  // Transformed columns; products; a tile's inputs or outputs; a line of outputs; where outputs are
  // computed again, inputs and sums.
  const std::int64_t lanes = block_lanes();
  return kPositions * (position_stride(layer_.x.planes, lanes) +
                       position_stride(rows_at_once(), lanes) + 2 * lanes) +
         (kTileOut + kOutputs) * lanes;
}

// Cuts the lanes, which run over samples first, then over the tiles of a row, then over rows.
void Winograd::collect_segments() {
  const std::int64_t tiles_x = ceil_div(layer_.out_width, kTileOut);
  const std::int64_t tiles_y = ceil_div(layer_.out_height, kTileOut);
  std::int64_t lane = block_lanes();  // the next one, within its block
  for (std::int64_t ty = 0; ty < tiles_y; ++ty) {
    std::int64_t tx = 0, sample = 0;
    while (tx < tiles_x) {
      if (lane == block_lanes()) {
        segment_starts_.push_back(static_cast<std::int64_t>(segments_.size()));
        lane = 0;
      }
      const std::int64_t free = block_lanes() - lane;
      const bool whole = sample == 0 && free >= layer_.batch;
      const std::int64_t tiles = whole ? std::min(free / layer_.batch, tiles_x - tx) : 1;
      const std::int64_t samples = whole ? layer_.batch : std::min(free, layer_.batch - sample);
      segments_.push_back({ty, tx, tiles, sample, samples, lane});
      lane += tiles * samples;
      sample = (sample + samples) % layer_.batch;
      if (sample == 0) tx += tiles;
    }
  }
  blocks_ = static_cast<std::int64_t>(segment_starts_.size());
  segment_starts_.push_back(static_cast<std::int64_t>(segments_.size()));
}

// Whether all lanes of a block are samples of one tile.
bool Winograd::is_one_tile(std::int64_t block) const {
  const Segment& first = segments_[segment_starts_[block]];
  return first.tiles == 1 && first.samples == block_lanes();
}

// Finds the inputs of a block's tiles in one plane: in place where all lanes are samples of one
// tile, packed as tile[position][lane] elsewhere. `tile` is zero, or what this has packed.
void Winograd::gather(std::int64_t block, const float* image, float* tile,
                      const float* (&in)[kPositions]) const {
  const std::int64_t lanes = block_lanes(), batch = layer_.batch;
  if (is_one_tile(block)) {
    const Segment& only = segments_[segment_starts_[block]];
    for (int p = 0; p < kPositions; ++p) {
      const std::int64_t y = only.tile_y * kTileOut + p / kTile - layer_.pad_top;
      const std::int64_t x = only.tile_x * kTileOut + p % kTile - layer_.pad_left;
      const bool inside = y >= 0 && y < layer_.height && x >= 0 && x < layer_.width;
      in[p] = inside ? image + (y * layer_.x_pitch + x) * batch + only.first_sample : tile;
    }
    return;
  }
  for (int p = 0; p < kPositions; ++p) in[p] = tile + p * lanes;
  for (std::int64_t s = segment_starts_[block]; s < segment_starts_[block + 1]; ++s) {
    const Segment& segment = segments_[s];
    const PixelCopy<float> copy = pixel_copy<float>(kTileOut, segment.samples);
    for (int i = 0; i < kTile; ++i) {
      const std::int64_t y = segment.tile_y * kTileOut + i - layer_.pad_top;
      const bool outside = y < 0 || y >= layer_.height;
      if (batch == 1 && !outside) {
        take_apart(image + y * layer_.x_pitch, segment.tile_x * kTileOut - layer_.pad_left,
                   layer_.width, segment.tiles, tile + i * kTile * lanes + segment.lane, lanes);
        continue;
      }
      for (int j = 0; j < kTile; ++j) {
        float* to = tile + (i * kTile + j) * lanes + segment.lane;
        const std::int64_t x = segment.tile_x * kTileOut + j - layer_.pad_left;
        const Span in = outside ? Span{0, 0} : inside(x, kTileOut, layer_.width, segment.tiles);
        std::fill(to, to + in.first * segment.samples, 0.0f);
        if (in.first < in.last) {
          const std::int64_t pixel = y * layer_.x_pitch + x + in.first * kTileOut;
          copy(image + pixel * batch + segment.first_sample, to + in.first * segment.samples,
               in.last - in.first, kTileOut, segment.samples);
        }
        std::fill(to + in.last * segment.samples, to + segment.tiles * segment.samples, 0.0f);
      }
    }
  }
}

// Writes a block's outputs, tile[position][lane], of one row of y.
void Winograd::scatter(std::int64_t block, std::int64_t row, float* tile, float* arena,
                       float* line) const {
  const std::int64_t lanes = block_lanes(), batch = layer_.batch;
  for (std::int64_t s = segment_starts_[block]; s < segment_starts_[block + 1]; ++s) {
    const Segment& segment = segments_[s];
    const std::int64_t x = segment.tile_x * kTileOut;
    const std::int64_t columns = std::min(segment.tiles * kTileOut, layer_.out_width - x);
    const bool last = x + columns == layer_.out_width;
    for (int i = 0; i < kTileOut; ++i) {
      const std::int64_t y = segment.tile_y * kTileOut + i;
      if (y >= layer_.out_height) break;
      float* from = tile + i * kTileOut * lanes + segment.lane;
      const std::int64_t at = (y * layer_.y_pitch + x) * batch + segment.first_sample;
      if (segment.tiles == 1) {
        for (std::int64_t j = 0; j < columns; ++j) {
          finish(from + j * lanes, segment.samples, row, at + j * batch, arena);
        }
      } else {
        interleave(from, lanes, segment.tiles, batch, line);
        finish(line, columns * batch, row, at, arena);
      }
      float* halo = arena + layer_.y.offset + row * layer_.y.plane + at;
      for (std::int64_t k = 0; k < layer_.halo; ++k) {
        if (last) std::fill_n(halo + (columns + k) * batch, segment.samples, 0.0f);
        if (x == 0 && y == 0) std::fill_n(halo - (k + 1) * batch, segment.samples, 0.0f);
      }
    }
  }
}

// Adds the bias to a tile's outputs, tile[position][lane], of one row, and activates them.
void Winograd::activate_tile(std::int64_t row, float* tile) const {
  const std::int64_t outputs = kOutputs * block_lanes();
  if (layer_.bias.size) {
    for (std::int64_t at = 0; at < outputs; at += kLanes) {
      store(tile + at, load(tile + at) + layer_.bias[row]);
    }
  }
  activate(layer_.activation, tile, outputs);
}

// Writes lanes that lie side by side in y, from element `at` of the row's plane on. `sums` may be
// changed.
void Winograd::finish(float* sums, std::int64_t lanes, std::int64_t row, std::int64_t at,
                      float* arena) const {
  const float bias = layer_.bias.size && !activated_first_ ? layer_.bias[row] : 0.0f;
  const bool add = layer_.skip.planes != 0;
  const float* skip = arena + layer_.skip.offset + row * layer_.skip.plane + at;
  float* y = arena + layer_.y.offset + row * layer_.y.plane + at;
  const auto each = [&](auto function) {
    for (std::int64_t lane = 0; lane < lanes; lane += kLanes) {
      function(lane, std::min<std::int64_t>(kLanes, lanes - lane));
    }
  };
  const auto sum = [&](std::int64_t lane, std::int64_t count) {
    const Vector v = load(sums + lane) + bias;
    return add ? v + load(skip + lane, count) : v;
  };
  if (bounded_ || activated_first_) {
    const Vector low = broadcast(bounds_.low), high = broadcast(bounds_.high);
    each([&](std::int64_t lane, std::int64_t count) {
      store(y + lane, clamp(sum(lane, count), low, high), count);
    });
  } else {
    each([&](std::int64_t lane, std::int64_t count) {
      store(sums + lane, sum(lane, count), count);
    });
    activate(layer_.activation, sums, lanes);
    each([&](std::int64_t lane, std::int64_t count) { store(y + lane, load(sums + lane), count); });
  }
}

void Winograd::execute(std::int64_t item, float* arena, float* scratch) const {
  const std::int64_t block = item / layer_.parts, part = item % layer_.parts;
  const std::int64_t lanes = block_lanes(), row_blocks = ceil_div(layer_.y.planes, kWinogradRows);
  float* columns = scratch;  // [position][channel][lane]
  float* products =
      columns + kPositions * position_stride(layer_.x.planes, lanes);  // [position][row][lane]
  float* tile = products + kPositions * position_stride(rows_at_once(), lanes);  // [position][lane]
  float* line = tile + kPositions * lanes;
  float* again = line + kTileOut * lanes;
  transform_columns(block, arena, columns, tile);
  const std::int64_t last = (part + 1) * row_blocks / layer_.parts;
  for (std::int64_t first = part * row_blocks / layer_.parts; first < last;
       first += layer_.row_blocks) {
    const std::int64_t count = std::min(layer_.row_blocks, last - first);
    multiply_columns(first, count, columns, products);
    const std::int64_t first_row = first * kWinogradRows;
    const std::int64_t rows = std::min(count * kWinogradRows, layer_.y.planes - first_row);
    for (std::int64_t row = 0; row < rows; ++row) {
      Vector sum{};
      for (std::int64_t lane = 0; lane < lanes; lane += kLanes) {
        sum += transform_output(products + row * lanes + lane,
                                position_stride(count * kWinogradRows, lanes), tile + lane, lanes);
      }
      if (!is_finite(sum)) recompute(block, first_row + row, arena, tile, again);
      if (activated_first_) activate_tile(first_row + row, tile);
      scatter(block, first_row + row, tile, arena, line);
    }
  }
}

// Computes those of a row's outputs tile[position][lane] by definition that are not finite. Others
// stay: what one sample makes of a layer does not depend on the samples beside it.
void Winograd::recompute(std::int64_t block, std::int64_t row, const float* arena, float* tile,
                         float* scratch) const {
  const std::int64_t lanes = block_lanes(), channels = layer_.x.planes;
  float* inputs = scratch;                     // [position][lane]
  float* sums = scratch + kPositions * lanes;  // as in `tile`
  std::fill(inputs, sums + kOutputs * lanes, 0.0f);
  const float* in[kPositions];
  for (std::int64_t c = 0; c < channels; ++c) {
    gather(block, arena + layer_.x.offset + c * layer_.x.plane, inputs, in);
    float w[9];
    filter_of(layer_.weights.data +
                  (row / kWinogradRows * kPositions * channels + c) * kWinogradRows +
                  row % kWinogradRows,
              channels * kWinogradRows, w);
    for (std::int64_t at = 0; at < kOutputs * lanes; at += kLanes) {
      const std::int64_t output = at / lanes, lane = at % lanes;
      const std::int64_t first = output / kTileOut * kTile + output % kTileOut;
      Vector sum = load(sums + at);
      for (int tap = 0; tap < 9; ++tap) {
        sum += w[tap] * load(in[first + tap / 3 * kTile + tap % 3] + lane);
      }
      store(sums + at, sum);
    }
  }
  for (std::int64_t at = 0; at < kOutputs * lanes; at += kLanes) {
    const Vector fast = load(tile + at);
    store(tile + at, fast - fast == 0.0f ? fast : load(sums + at));
  }
}

// Transforms the inputs of a block: columns[position][channel][lane].
void Winograd::transform_columns(std::int64_t block, const float* arena, float* columns,
                                 float* tile) const {
  const std::int64_t lanes = block_lanes(), channels = layer_.x.planes;
  const float* in[kPositions];
  std::fill(tile, tile + kPositions * lanes, 0.0f);
  const bool in_place = is_one_tile(block);
  for (std::int64_t c = 0; c < channels; ++c) {
    gather(block, arena + layer_.x.offset + c * layer_.x.plane, tile, in);
    for (std::int64_t lane = 0; lane < lanes; lane += kLanes) {
      if (in_place) {
        for (const float* next : in) __builtin_prefetch(next + lane + layer_.x.plane);
      }
      transform_input(in, lane, columns + c * lanes + lane, position_stride(channels, lanes));
    }
  }
}

// Multiplies `count` blocks of rows, from block `first` on, with all columns, one position after
// the other, whose columns then stay in cache: products[position][row][lane].
void Winograd::multiply_columns(std::int64_t first, std::int64_t count, const float* columns,
                                float* products) const {
  const std::int64_t lanes = block_lanes(), channels = layer_.x.planes;
  for (int p = 0; p < kPositions; ++p) {
    const float* x = columns + p * position_stride(channels, lanes);
    float* out = products + p * position_stride(count * kWinogradRows, lanes);
    for (std::int64_t b = 0; b < count; ++b) {
      const float* weights =
          layer_.weights.data + ((first + b) * kPositions + p) * channels * kWinogradRows;
      multiply_rows(weights, x, channels, out + b * kWinogradRows * lanes, lanes);
    }
  }
}

}  // namespace masktools
