#include "kernels/bfloat16/convolution.h"

#ifdef __AVX512BW__

#include <immintrin.h>

#include <algorithm>
#include <stdexcept>

#include "simd/bfloat16_vector.h"
#include "simd/epilogue.h"
#include "simd/vector.h"

namespace masktools {
namespace {

static_assert(kLanes == kTileLanes, "check() knows which lanes are read");

// Rows of a group, at most: their sums over 64 lanes take 512 KB.
constexpr std::int64_t kMostRows = 2048;

// Weights of every group begin on a cache line.
constexpr std::int64_t kLine = 64 / sizeof(Bfloat16);

std::int64_t tiles_of(std::int64_t number, std::int64_t unit) { return (number + unit - 1) / unit; }

std::int64_t weight_entries(std::int64_t rows, std::int64_t columns) {
  if (rows == 1) return 2 * columns;
  return tiles_of(rows, kTileRows) * tiles_of(columns, kTileColumns) * kTileElements;
}

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

// Sums of 32 neighbouring lanes, those of even and of odd number apart: 16 words of memory hold
// both, and one shift or mask makes floats of either.
struct Halves {
  Vector even = {}, odd = {};

  // Of the first kCount lanes: no more are read.
  template <int kCount>
  void add(const Bfloat16* x, Vector weight) {
    WordVector words = {};
    std::memcpy(&words, x, sizeof(Bfloat16) * kCount);
    even += weight * reinterpret_cast<Vector>(words << 16);
    odd += weight * reinterpret_cast<Vector>(words & 0xffff0000u);
  }

  void store(float* sums) const {
    const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    const auto e = reinterpret_cast<__m512>(even), o = reinterpret_cast<__m512>(odd);
    _mm512_store_ps(sums, _mm512_permutex2var_ps(e, low, o));
    _mm512_store_ps(sums + kLanes, _mm512_permutex2var_ps(e, high, o));
  }
};

// The columns of one row: offsets from x, and weights.
struct Row {
  const Bfloat16* x;
  const std::int32_t* offsets;
  const float* weights;
};

// Adds columns [first, last) of the first kVectors * kLanes lanes.
template <int kVectors>
void add_columns(const Row& row, std::int32_t first, std::int32_t last, Halves& low, Halves& high) {
  constexpr int kLow = std::min(kVectors, 2) * kLanes, kHigh = kVectors * kLanes - kLow;
  Halves a = low, b = high;
  for (std::int32_t k = first; k < last; ++k) {
    const Vector weight = broadcast(row.weights[k]);
    const Bfloat16* x = row.x + row.offsets[k];
    a.add<kLow>(x, weight);
    if constexpr (kHigh > 0) b.add<kHigh>(x + 2 * kLanes, weight);
  }
  low = a;
  high = b;
}

}  // namespace

struct Bfloat16Convolution::Tile {
  const std::int32_t* taps;  // ranges [first, last)
  std::int64_t ranges;
  const Bfloat16* x;  // the first lane of each
  Bfloat16* y;
  const Bfloat16* skip;      // or null
  const std::int32_t* mask;  // or null
  std::int64_t lanes;
  Combine combine;

  int lane_tiles() const { return static_cast<int>(tiles_of(lanes, kTileLanes)); }
};

struct Bfloat16Convolution::Scratch {
  Bfloat16* panel;    // as Product takes it
  float* sums;        // [most_rows][kProductLanes]
  float* partial;     // [y.planes][kProductLanes], of rows that lie in several groups
  ColumnTile* tiles;  // [most_tiles]
};

Bfloat16Convolution::Bfloat16Convolution(const Layer& layer, Array<Bfloat16> weights,
                                         const ProductKernel& kernel)
    : layer_(layer), weights_(weights), kernel_(kernel) {
  layer_.weights.size = weights.size;
  check(layer_, {kMostRows, weight_entries});
  require(weights.size == 0 || reinterpret_cast<std::uintptr_t>(weights.data) % 64 == 0,
          "layer: weights are unaligned");
  chunks_ = layer.chunk_starts.size - 1;
  parts_ = layer.part_starts.size - 1;
  taps_ = layer.tap_starts.size / layer.flags.size - 1;
  bounded_ = is_bounds(layer.activation, &bounds_);
  std::int64_t most_columns = 0, most_ranges = 0;
  for (std::int64_t g = 0; g < layer.flags.size; ++g) {
    const std::int64_t rows = layer.row_starts[g + 1] - layer.row_starts[g];
    require(layer.weight_starts[g] % kLine == 0, "layer: weights are unaligned");
    most_rows_ = std::max(most_rows_, tiles_of(rows, kTileRows) * kTileRows);
    most_columns =
        std::max<std::int64_t>(most_columns, layer.tap_starts[(g + 1) * (taps_ + 1) - 1]);
    summed_in_parts_ |= layer.flags[g] != (kFirst | kLast);
  }
  for (std::int64_t s = 0; s + 1 < layer.tap_set_starts.size; ++s) {
    most_ranges = std::max(most_ranges, layer.tap_set_starts[s + 1] - layer.tap_set_starts[s]);
  }
  most_tiles_ = most_ranges * (most_columns / kTileColumns + 2);
  for (std::int64_t i = 0; i < layer.runs.size; ++i) {
    require(is_contiguous(layer.runs[i]), "layer: vectors of a run of bfloat16 lie apart");
    require(layer.runs[i].combine != Combine::kAdd, "layer: sums of bfloat16 are not pooled");
  }
}

std::int64_t Bfloat16Convolution::scratch_bytes() const {
  const std::int64_t partial = summed_in_parts_ ? layer_.y.planes : 0;
  return kPanelElements * static_cast<std::int64_t>(sizeof(Bfloat16)) +
         (most_rows_ + partial) * kProductLanes * static_cast<std::int64_t>(sizeof(float)) +
         most_tiles_ * static_cast<std::int64_t>(sizeof(ColumnTile));
}

void Bfloat16Convolution::execute(std::int64_t item, const Buffers& buffers,
                                  std::byte* memory) const {
  Scratch scratch;
  scratch.panel = reinterpret_cast<Bfloat16*>(memory);
  scratch.sums = reinterpret_cast<float*>(scratch.panel + kPanelElements);
  scratch.partial = scratch.sums + most_rows_ * kProductLanes;
  const std::int64_t partial = summed_in_parts_ ? layer_.y.planes : 0;
  scratch.tiles = reinterpret_cast<ColumnTile*>(scratch.partial + partial * kProductLanes);

  const std::int64_t chunk = layer_.parts_first ? item / parts_ : item % chunks_;
  const std::int64_t part = layer_.parts_first ? item % parts_ : item / chunks_;
  auto* arena = reinterpret_cast<Bfloat16*>(buffers.arena);
  const std::int64_t first_panel = layer_.part_starts[part];
  const std::int64_t last_panel = layer_.part_starts[part + 1];
  // Partial sums are kept for one tile of lanes alone: then all groups of the part go over it.
  const std::int64_t step = summed_in_parts_ ? last_panel - first_panel : 1;
  kernel_.begin();
  for (std::int64_t p = first_panel; p < last_panel; p += step) {
    for (std::int64_t r = layer_.chunk_starts[chunk]; r < layer_.chunk_starts[chunk + 1]; ++r) {
      execute_run(layer_.runs[r], layer_.panel_starts[p], layer_.panel_starts[p + step], arena,
                  scratch);
    }
  }
  kernel_.end();
}

// Executes groups [first, last) on one run, tile by tile.
void Bfloat16Convolution::execute_run(const Run& run, std::int64_t first, std::int64_t last,
                                      Bfloat16* arena, const Scratch& scratch) const {
  Tile tile;
  tile.taps = layer_.tap_sets.data + 2 * layer_.tap_set_starts[run.tap_set];
  tile.ranges = layer_.tap_set_starts[run.tap_set + 1] - layer_.tap_set_starts[run.tap_set];
  tile.combine = run.combine;
  for (std::int64_t lane = 0; lane < run.lanes; lane += kProductLanes) {
    tile.x = arena + layer_.x.offset + run.input + lane;
    tile.y = arena + layer_.y.offset + run.output + lane;
    tile.skip = layer_.skip.planes ? arena + layer_.skip.offset + run.output + lane : nullptr;
    tile.mask = run.mask >= 0 ? layer_.masks.data + run.mask + lane : nullptr;
    tile.lanes = std::min<std::int64_t>(run.lanes - lane, kProductLanes);
    for (std::int64_t g = first; g < last; ++g) {
      if (layer_.row_starts[g + 1] - layer_.row_starts[g] == 1) {
        add_row(g, tile, scratch);
      } else {
        multiply(g, tile, scratch);
      }
      finish(g, tile, scratch);
    }
  }
}

// Sums of the products of a group of several rows.
void Bfloat16Convolution::multiply(std::int64_t group, const Tile& tile,
                                   const Scratch& scratch) const {
  const std::int32_t* starts = layer_.tap_starts.data + group * (taps_ + 1);
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < tile.ranges; ++i) {
    const std::int32_t first = starts[tile.taps[2 * i]], last = starts[tile.taps[2 * i + 1]];
    for (std::int32_t t = first / kTileColumns; t * kTileColumns < last && first < last; ++t) {
      scratch.tiles[count++] = {t, std::max(first - t * kTileColumns, 0),
                                std::min(last - t * kTileColumns, kTileColumns)};
    }
  }
  const std::int64_t rows = layer_.row_starts[group + 1] - layer_.row_starts[group];
  if (count == 0) {
    std::fill_n(scratch.sums, rows * kProductLanes, 0.0f);
    return;
  }
  Product product;
  product.x = tile.x;
  product.offsets = layer_.offsets.data + layer_.offset_starts[group];
  product.tiles = scratch.tiles;
  product.count = count;
  product.weights = weights_.data + layer_.weight_starts[group];
  product.column_tiles = tiles_of(starts[taps_], kTileColumns);
  product.rows = rows;
  product.lane_tiles = tile.lane_tiles();
  product.panel = scratch.panel;
  product.sums = scratch.sums;
  kernel_.multiply(product);
}

// Sums of the products of a group of one row.
void Bfloat16Convolution::add_row(std::int64_t group, const Tile& tile,
                                  const Scratch& scratch) const {
  static constexpr decltype(&add_columns<1>) kAdd[] = {add_columns<1>, add_columns<2>,
                                                       add_columns<3>, add_columns<4>};
  const std::int32_t* starts = layer_.tap_starts.data + group * (taps_ + 1);
  const Row row = {tile.x, layer_.offsets.data + layer_.offset_starts[group],
                   reinterpret_cast<const float*>(weights_.data + layer_.weight_starts[group])};
  const auto add = kAdd[tile.lane_tiles() - 1];
  Halves low, high;
  for (std::int64_t i = 0; i < tile.ranges; ++i) {
    add(row, starts[tile.taps[2 * i]], starts[tile.taps[2 * i + 1]], low, high);
  }
  low.store(scratch.sums);
  high.store(scratch.sums + 2 * kLanes);
}

// Adds what other groups have summed of the same rows; writes those that are complete.
void Bfloat16Convolution::finish(std::int64_t group, const Tile& tile,
                                 const Scratch& scratch) const {
  const std::int32_t flags = layer_.flags[group];
  const std::int64_t first = layer_.row_starts[group], last = layer_.row_starts[group + 1];
  if (flags != (kFirst | kLast)) {
    for (std::int64_t i = first; i < last; ++i) {
      float* sums = scratch.sums + (i - first) * kProductLanes;
      float* partial = scratch.partial + layer_.rows[i] * kProductLanes;
      for (int j = 0; j < kProductLanes; j += kLanes) {
        const Vector v = load(sums + j);
        store((flags & kLast) ? sums + j : partial + j,
              (flags & kFirst) ? v : v + load(partial + j));
      }
    }
    if (!(flags & kLast)) return;
  }
  if (!bounded_)
    return write(first, last, tile, scratch,
                 [this](Vector v) { return activated(layer_.activation, v); });
  const Vector low = broadcast(bounds_.low), high = broadcast(bounds_.high);
  write(first, last, tile, scratch, [=](Vector v) { return clamp(v, low, high); });
}

// The epilogue of rows [first, last) of the layer's list, whose sums follow each other.
template <class Activate>
void Bfloat16Convolution::write(std::int64_t first, std::int64_t last, const Tile& tile,
                                const Scratch& scratch, const Activate& activated) const {
  for (std::int64_t i = first; i < last; ++i) {
    const std::int64_t row = layer_.rows[i];
    const float* sums = scratch.sums + (i - first) * kProductLanes;
    const Vector bias = broadcast(layer_.bias.size ? layer_.bias[row] : 0.0f);
    Bfloat16* y = tile.y + row * layer_.y.plane;
    const Bfloat16* skip = tile.skip ? tile.skip + row * layer_.skip.plane : nullptr;
    for (std::int64_t lane = 0; lane < tile.lanes; lane += kLanes) {
      Vector v = load(sums + lane) + bias;
      if (skip) v += load(skip + lane);
      v = activated(v);
      if (tile.mask) {
        v = reinterpret_cast<Vector>(reinterpret_cast<IntVector>(v) & load(tile.mask + lane));
      }
      if (tile.combine == Combine::kMax) v = maximum(v, load(y + lane));
      if (tile.lanes - lane >= kLanes) {
        store(y + lane, v);
      } else {
        store(y + lane, v, tile.lanes - lane);
      }
    }
  }
}

}  // namespace masktools

#endif  // __AVX512BW__
