// Layers in bfloat16 against convolutions by definition, where the backend offers them.
#include "kernels/bfloat16/convolution.h"

#ifdef __AVX512BW__

#include <cstring>
#include <memory>

#include "arena.h"
#include "check.h"
#include "definitions.h"
#include "network.h"

namespace masktools {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// A product by its definition, in double precision.
void multiply_by_definition(const Product& product) {
  for (std::int64_t row = 0; row < product.rows; ++row) {
    for (int lane = 0; lane < product.lane_tiles * kTileLanes; ++lane) {
      double sum = 0;
      for (std::int64_t i = 0; i < product.count; ++i) {
        const ColumnTile& tile = product.tiles[i];
        const std::int64_t weights = row / kTileRows * product.column_tiles + tile.tile;
        for (std::int32_t k = tile.first; k < tile.last; ++k) {
          const std::int64_t at = weights * kTileElements + row % kTileRows * kTileColumns + k;
          const std::int32_t offset = product.offsets[tile.tile * kTileColumns + k];
          sum += double{static_cast<float>(product.weights[at])} *
                 double{static_cast<float>(product.x[offset + lane])};
        }
      }
      product.sums[row * kProductLanes + lane] = static_cast<float>(sum);
    }
  }
}

void nothing() {}

constexpr ProductKernel kByDefinition = {"definition", nothing, multiply_by_definition, nothing};

// What runs here, and what it stands for.
std::vector<const ProductKernel*> all_kernels() {
  std::vector<const ProductKernel*> kernels = product_kernels();
  kernels.push_back(&kByDefinition);
  return kernels;
}

// The weights of a layer as Bfloat16Convolution takes them.
class TiledWeights {
 public:
  explicit TiledWeights(const Layer& layer) {
    const std::int64_t groups = layer.flags.size, taps = layer.tap_starts.size / groups;
    std::vector<Bfloat16> entries;
    for (std::int64_t g = 0; g < groups; ++g) {
      const std::int64_t rows = layer.row_starts[g + 1] - layer.row_starts[g];
      const std::int64_t columns = layer.tap_starts[(g + 1) * taps - 1];
      const float* weights = layer.weights.data + layer.weight_starts[g];
      const auto first = static_cast<std::int64_t>(entries.size());
      starts_.push_back(first);
      if (rows == 1) {
        entries.resize(first + ceil_div(2 * columns, kTileColumns) * kTileColumns);
        if (columns > 0) std::memcpy(&entries[first], weights, sizeof(float) * columns);
        continue;
      }
      const std::int64_t along = ceil_div(columns, kTileColumns);
      entries.resize(first + ceil_div(rows, kTileRows) * along * kTileElements);
      for (std::int64_t k = 0; k < columns; ++k) {
        for (std::int64_t r = 0; r < rows; ++r) {
          const std::int64_t tile = r / kTileRows * along + k / kTileColumns;
          const std::int64_t within = r % kTileRows * kTileColumns + k % kTileColumns;
          entries[first + tile * kTileElements + within] = Bfloat16(weights[k * rows + r]);
        }
      }
    }
    count_ = static_cast<std::int64_t>(entries.size());
    arena_ = std::make_unique<Arena<Bfloat16>>(entries);
  }

  Array<std::int64_t> starts() const {
    return {starts_.data(), static_cast<std::int64_t>(starts_.size())};
  }
  Array<Bfloat16> entries() const { return {arena_->data(), count_}; }

 private:
  std::vector<std::int64_t> starts_;
  std::int64_t count_;
  std::unique_ptr<Arena<Bfloat16>> arena_;  // aligned
};

std::vector<float> executed_in_bfloat16(const Layer& layer, const ProductKernel& kernel,
                                        const std::vector<float>& arena) {
  const TiledWeights weights(layer);
  Layer tiled = layer;
  tiled.weights = {};
  tiled.weight_starts = weights.starts();
  const Bfloat16Convolution operation(tiled, weights.entries(), kernel);
  return widened(executed(operation, stored<Bfloat16>(arena)));
}

// Sums are exact but for float's rounding; they are rounded once, to 8 bits.
constexpr double kTolerance = 1.0 / 256;

// Groups lower and higher than a tile, of few columns and of more than a panel holds.
void check_all_groups(Case c) {
  c.bfloat16 = true;
  for (const std::int64_t rows : {1, 2, 8, 15, 16, 17, 33}) {
    c.group_rows = rows;
    c.rows = 2 * rows + 1;
    for (const auto& [block, row] : {std::pair(1.0, 0.0), std::pair(0.3, 0.0), std::pair(0.3, 0.1),
                                     std::pair(0.0, 0.2), std::pair(0.0, 0.0)}) {
      c.block_share = block;
      c.row_share = row;
      c.seed += 1;
      c.skip = c.seed % 2 == 0 && c.pooling == Combine::kStore;
      c.over_skip = c.skip && c.seed % 4 == 0;
      c.activation = kActivations[c.seed % kActivationCount];
      const PackedCase packed(c);
      for (const ProductKernel* kernel : all_kernels()) {
        const double of_a_channel = kTolerance / static_cast<double>(1 + c.channels);
        packed.compare(executed_in_bfloat16(packed.layer(), *kernel, packed.arena()), of_a_channel);
      }
    }
  }
}

TEST(bfloat16_of_whole_pixels) {
  for (const std::int64_t batch : {1, 17, 33, 49, 100}) {
    check_all_groups({batch, 5, 0, 3, 2, 1 + batch % 2, true, 0, 0, 0, false, {}, 0});
  }
}

TEST(bfloat16_of_many_columns) {
  check_all_groups({16, 40, 0, 2, 3, 1, true, 0, 0, 0, false, {}, 1});
}

TEST(bfloat16_of_planes) {
  for (const std::int64_t batch : {1, 3, 8}) {
    for (const std::int64_t width : {1, 7, 23}) {
      check_all_groups({batch, 3, 0, 3, width, 1, false, 0, 0, 0, false, {}, 2});
    }
  }
}

TEST(bfloat16_convolution_and_maximum_at_once) {
  check_all_groups({24, 3, 0, 5, 4, 1, true, 0, 0, 0, false, {}, 3, false, Combine::kMax});
}

TEST(bfloat16_sees_a_wrong_weight) {
  Case c{16, 3, 4, 4, 4, 1, true, 4, 0.5, 0.0, false, {}, 0};
  c.bfloat16 = true;
  const PackedCase packed(c);
  Layer wrong = packed.layer();
  std::vector<float> weights(wrong.weights.data, wrong.weights.data + wrong.weights.size);
  weights[0] += 0.25f;
  wrong.weights.data = weights.data();
  for (const ProductKernel* kernel : all_kernels()) {
    bool seen = false;
    try {
      packed.compare(executed_in_bfloat16(wrong, *kernel, packed.arena()), kTolerance / 4);
    } catch (const std::runtime_error&) {
      seen = true;
    }
    expect(seen, std::string("the comparison does not see a wrong weight of ") + kernel->name);
  }
}

TEST(bfloat16_refuses_what_does_not_fit) {
  Case c{16, 3, 20, 4, 4, 1, true, 10, 1.0, 0.0, false, {}, 0, false, Combine::kAdd};
  const PackedCase pooled(c);
  c.pooling = Combine::kStore;
  const PackedCase packed(c);
  const TiledWeights weights(packed.layer());
  Layer layer = packed.layer();
  layer.weights = {};
  layer.weight_starts = weights.starts();
  const auto refused = [&](const char* what, const Layer& l, Array<Bfloat16> entries) {
    expect_refused(what, [&] { Bfloat16Convolution made(l, entries, kByDefinition); });
  };
  Array<Bfloat16> entries = weights.entries();
  Bfloat16Convolution taken(layer, entries, kByDefinition);
  refused("too few weights", layer, {entries.data, entries.size - 1});
  refused("unaligned weights", layer, {entries.data + 1, entries.size});
  std::vector<std::int64_t> starts(layer.weight_starts.data, layer.weight_starts.data + 2);
  starts[0] = 8;
  layer.weight_starts.data = starts.data();
  refused("an unaligned group", layer, entries);
  layer = pooled.layer();
  layer.weights = {};
  layer.weight_starts = weights.starts();
  refused("sums that are pooled", layer, entries);
}

}  // namespace
}  // namespace masktools

#endif  // __AVX512BW__
