// Rows of nonzeros over packed windows against convolutions by definition.
#include <cmath>
#include <utility>

#include "definitions.h"
#include "kernels/nonzeros/row_kernel.h"
#include "rows_case.h"
#include "simd/vector.h"

namespace masktools {
namespace {

constexpr std::int64_t kChannels = 5, kRows = 7;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Whether registers hold the sums of a tile, whose window may be packed so.
bool fits(const RowsLayer& layer) {
  const TileShape& tile = layer.tile;
  const std::int64_t row = tile.pixels * tile.samples;
  if (layer.copies == Copies::kNone) return tile.rows * ceil_div(row, kLanes) <= kRowVectors;
  if (layer.copies == Copies::kColumns && layer.taps.stride_y != 1) return false;
  return ceil_div(tile.rows * row, kLanes) <= kRowVectors;
}

// In all ways to pack a window, a tile having all samples, a vector of them (which may be more than
// there are) or three; with panels and parts of every size.
void check_cuts(const RowsLayer& wanted, bool skip, std::uint32_t seed) {
  std::uint32_t tried = 0;
  for (const Copies copies : {Copies::kNone, Copies::kColumns, Copies::kTaps}) {
    for (const std::int64_t samples : {wanted.out.batch, std::int64_t{kLanes}, std::int64_t{3}}) {
      RowsLayer layer = wanted;
      layer.copies = copies;
      layer.tile.samples = samples;
      if (!fits(layer)) continue;
      layer.panel_channels = 1 + (seed + tried) % kChannels;
      layer.parts = 1 + (seed + tried) % kRows;
      RowsCase(layer, kChannels, kRows, 0.3, skip, seed + tried).check();
      ++tried;
    }
  }
  expect(tried > 0, "no tile fits the registers");
}

constexpr TileShape kTiles[] = {{1, 1, 1}, {1, 3, 1}, {2, 2, 1}, {3, 2, 1}, {4, 1, 1}};

TEST(rows_of_every_size_and_batch) {
  constexpr std::pair<int, int> kSizes[] = {{1, 1}, {2, 5}, {4, 4}, {7, 9}, {3, 13}};
  std::uint32_t seed = 0;
  for (const std::int64_t batch : {1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 65}) {
    for (const auto& [height, width] : kSizes) {
      RowsLayer layer = same_size(batch, height, width);
      layer.tile = kTiles[seed % 4 + seed / 5 % 2];
      layer.halo = seed % 3;
      check_cuts(layer, seed % 2 == 0, seed);
      ++seed;
    }
  }
}

TEST(rows_of_any_window) {
  constexpr Taps kWindows[] = {
      {1, 1, 1, 1, 1, 1, 0, 0}, {1, 1, 2, 2, 1, 1, 0, 0}, {3, 3, 2, 2, 1, 1, 1, 1},
      {3, 3, 1, 1, 2, 2, 2, 2}, {5, 2, 1, 3, 1, 2, 3, 0}, {2, 5, 3, 2, 2, 1, 0, 4},
      {1, 3, 1, 1, 1, 3, 0, 5}, {3, 4, 1, 4, 1, 3, 2, 1}, {7, 7, 2, 1, 1, 1, 9, 8}};
  Random random(0);
  std::uint32_t seed = 0;
  for (const std::int64_t batch : {1, 2, 4, 5, 8, 16, 33}) {
    for (const Taps& taps : kWindows) {
      const std::int64_t height = 3 + random.below(7), width = 3 + random.below(9);
      RowsLayer layer = same_size(batch, height, width);
      layer.taps = taps;
      layer.out.height = 1 + random.below(5);
      layer.out.width = 1 + random.below(6);
      layer.tile = kTiles[random.below(5)];
      check_cuts(layer, false, ++seed);
    }
  }
}

// Of so many rows of vectors; the last tiles have one row.
TEST(rows_by_every_kernel) {
  for (std::int64_t rows = 1; rows <= kRowVectors; ++rows) {
    for (std::int64_t vectors = 1; rows * vectors <= kRowVectors; ++vectors) {
      RowsLayer layer = same_size(kLanes, rows + 1, vectors + 1);
      layer.tile = {rows, vectors, kLanes};
      RowsCase(layer, 3, kRows, 0.5, false, static_cast<std::uint32_t>(rows)).check();
    }
  }
}

TEST(rows_with_every_epilogue) {
  std::uint32_t seed = 0;
  for (const std::int64_t batch : {1, 5, 16, 33}) {
    for (const Activation& activation : kActivations) {
      RowsLayer layer = same_size(batch, 5, 4);
      layer.tile = {2, 3, 1};
      layer.halo = 2;
      layer.activation = activation;
      check_cuts(layer, true, ++seed);
      check_cuts(layer, false, seed);
    }
  }
}

TEST(rows_written_over_the_skip_branch) {
  for (const std::int64_t batch : {1, 16, 21}) {
    RowsLayer layer = same_size(batch, 5, 6);
    layer.tile = {2, 3, kLanes};
    layer.copies = Copies::kTaps;
    layer.halo = 1;
    RowsCase c(layer, kChannels, kRows, 0.3, true, 2);
    c.layer.y = c.layer.skip;
    c.check();
  }
}

TEST(rows_whose_outputs_are_pooled) {
  constexpr std::pair<int, int> kPools[] = {{2, 2}, {1, 2}, {3, 1}};
  std::uint32_t seed = 0;
  for (const std::int64_t batch : {1, 3, 16, 33}) {
    for (const auto& [pool_y, pool_x] : kPools) {
      for (const Combine combine : {Combine::kMax, Combine::kAdd}) {
        RowsLayer layer = same_size(batch, 7, 9);
        layer.out.height = 7 / pool_y;
        layer.out.width = 9 / pool_x;
        layer.pool_y = pool_y;
        layer.pool_x = pool_x;
        layer.combine = combine;
        if (combine == Combine::kAdd) layer.scale = 1.0f / static_cast<float>(pool_y * pool_x);
        layer.tile = {2 * pool_y, pool_x, 1};
        layer.activation = kActivations[++seed % kActivationCount];
        check_cuts(layer, false, seed);
      }
    }
  }
}

TEST(rows_without_nonzeros) {
  for (const std::uint32_t seed : {0, 1}) {  // without a bias, and with one
    RowsCase(same_size(3, 4, 5), kChannels, kRows, 0.0, true, seed).check();
  }
}

TEST(rows_keep_what_is_not_a_number) {
  RowsLayer layer = same_size(2, 4, 5);
  layer.tile = {2, 2, 2};
  RowsCase c(layer, kChannels, kRows, 0.5, false, 1);
  for (std::int64_t channel = 0; channel < kChannels; ++channel) {
    c.arena[c.layer.x.offset + channel * c.layer.x.plane + 3] = std::nanf("");
  }
  c.check();
}

// Of as many elements as 16 bits count: the last channel is the farthest that offsets reach.
TEST(rows_over_the_largest_window) {
  constexpr std::int64_t kPanel = (1 << 16) / (kRowVectors * kLanes);
  RowsLayer layer = same_size(1, 1, 3);
  layer.taps = Taps();
  layer.tile = {1, kRowVectors, kLanes};
  layer.panel_channels = kPanel;
  RowsCase c(layer, kPanel + 1, 2 * kRows, 0.05, false, 1);
  c.check();
  c.layer.panel_channels = kPanel + 1;
  expect_refused("a larger one", [&] { Rows made(c.layer); }, "window of a panel is too large");
}

TEST(rows_see_a_wrong_weight) {
  RowsCase c(same_size(2, 6, 5), kChannels, kRows, 0.5, false, 1);
  const Expected expected = c.expected();
  c.weights[5] += 0.01f;
  bool seen = false;
  try {
    expected.compare(executed(Rows(c.layer), c.arena), 1e-5);
  } catch (const std::runtime_error&) {
    seen = true;
  }
  expect(seen, "the comparison does not see a wrong weight");
}

}  // namespace
}  // namespace masktools
