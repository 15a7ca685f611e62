// The minimal filtering algorithm against convolutions by definition.
#include <array>

#include "arena.h"
#include "check.h"
#include "definitions.h"
#include "kernels/winograd.h"

namespace masktools {
namespace {

// What is tried; `layer` has its shape, its padding and its cut, the rest is laid out here.
struct WinogradCase {
  explicit WinogradCase(const WinogradLayer& wanted, std::int64_t channels, std::int64_t rows,
                        bool skip, std::uint32_t seed);

  Expected expected() const;
  void check() const { expected().compare(executed(Winograd(layer), arena), 1e-5); }

  double sum(std::int64_t row, std::int64_t y, std::int64_t x, std::int64_t n) const;

  WinogradLayer layer;
  std::vector<float> arena, filters, weights, bias;  // filters: [row][channel][3][3]
};

// The filter's polynomial at each point, over the product of the differences to the other points.
std::array<std::array<double, 3>, 6> filter_transform() {
  const double points[] = {0, 0.75, -0.75, 4.0 / 3, -4.0 / 3};
  std::array<std::array<double, 3>, 6> g{};
  for (int i = 0; i < 5; ++i) {
    double apart = 1;
    for (int j = 0; j < 5; ++j) apart *= i == j ? 1 : points[i] - points[j];
    for (int k = 0; k < 3; ++k) g[i][k] = std::pow(points[i], k) / apart;
  }
  g[5][2] = 1;
  return g;
}

std::vector<float> transformed(const std::vector<float>& filters, std::int64_t rows,
                               std::int64_t channels) {
  const auto g = filter_transform();
  const std::int64_t blocks = (rows + kWinogradRows - 1) / kWinogradRows;
  std::vector<float> weights(blocks * kPositions * channels * kWinogradRows);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t p = 0; p < kPositions; ++p) {
        double sum = 0;
        for (int tap = 0; tap < 9; ++tap) {
          sum += g[p / 6][tap / 3] * g[p % 6][tap % 3] * filters[(row * channels + c) * 9 + tap];
        }
        const std::int64_t block = row / kWinogradRows * kPositions + p;
        weights[(block * channels + c) * kWinogradRows + row % kWinogradRows] =
            static_cast<float>(sum);
      }
    }
  }
  return weights;
}

// Pixels of x are numbers, all around them NaN.
WinogradCase::WinogradCase(const WinogradLayer& wanted, std::int64_t channels, std::int64_t rows,
                           bool skip, std::uint32_t seed)
    : layer(wanted) {
  Random random(seed);
  layer.x_pitch = layer.width + random.below(3);
  layer.y_pitch = layer.out_width + layer.halo + random.below(2);
  const std::int64_t batch = layer.batch, x_plane = layer.height * layer.x_pitch * batch + 3;
  const std::int64_t y_plane = (layer.out_height * layer.y_pitch + layer.halo) * batch + 5;
  layer.x = {7, channels, x_plane};
  layer.y = {7 + channels * x_plane + layer.halo * batch, rows, y_plane};
  layer.skip = {layer.y.offset + rows * y_plane, skip ? rows : 0, y_plane};
  arena.assign(layer.skip.offset + layer.skip.planes * y_plane + 2, std::nanf(""));
  const auto fill = [&](const Planes& planes, std::int64_t height, std::int64_t width,
                        std::int64_t pitch) {
    for (std::int64_t p = 0; p < planes.planes * height; ++p) {
      float* row = arena.data() + planes.offset + p / height * planes.plane;
      for (std::int64_t i = 0; i < width * batch; ++i) {
        row[p % height * pitch * batch + i] = random.number();
      }
    }
  };
  fill(layer.x, layer.height, layer.width, layer.x_pitch);
  fill(layer.skip, layer.out_height, layer.out_width, layer.y_pitch);
  filters = random.numbers(rows * channels * 9);
  weights = transformed(filters, rows, channels);
  if (seed % 4 != 0) bias = random.numbers(rows);
  layer.weights = {weights.data(), static_cast<std::int64_t>(weights.size())};
  layer.bias = {bias.data(), static_cast<std::int64_t>(bias.size())};
  layer.arena_elements = static_cast<std::int64_t>(arena.size());
}

double WinogradCase::sum(std::int64_t row, std::int64_t y, std::int64_t x, std::int64_t n) const {
  double sum = bias.empty() ? 0.0 : bias[row];
  for (std::int64_t i = 0; i < layer.x.planes * 9; ++i) {
    const std::int64_t in_y = y + i % 9 / 3 - layer.pad_top, in_x = x + i % 3 - layer.pad_left;
    if (in_y < 0 || in_y >= layer.height || in_x < 0 || in_x >= layer.width) continue;
    const std::int64_t pixel = (in_y * layer.x_pitch + in_x) * layer.batch + n;
    sum += double{filters[row * layer.x.planes * 9 + i]} *
           arena[layer.x.offset + i / 9 * layer.x.plane + pixel];
  }
  return sum;
}

Expected WinogradCase::expected() const {
  Expected expected(arena);
  for (std::int64_t row = 0; row < layer.y.planes; ++row) {
    const std::int64_t plane = layer.y.offset + row * layer.y.plane;
    for (std::int64_t i = 1; i <= layer.halo * layer.batch; ++i) expected.set(plane - i, 0.0);
    for (std::int64_t y = 0; y < layer.out_height; ++y) {
      for (std::int64_t x = 0; x < layer.out_width + layer.halo; ++x) {
        for (std::int64_t n = 0; n < layer.batch; ++n) {
          const std::int64_t at = (y * layer.y_pitch + x) * layer.batch + n;
          double value = 0;
          if (x < layer.out_width) {
            value = sum(row, y, x, n);
            if (layer.skip.planes) value += arena[layer.skip.offset + row * layer.skip.plane + at];
            value = activated(layer.activation, value);
          }
          expected.set(plane + at, value);
        }
      }
    }
  }
  return expected;
}

WinogradLayer shape(std::int64_t batch, std::int64_t height, std::int64_t width) {
  WinogradLayer layer;
  layer.batch = batch;
  layer.height = layer.out_height = height;
  layer.width = layer.out_width = width;
  layer.pad_top = layer.pad_left = 1;
  return layer;
}

TEST(winograd_of_every_size_and_batch) {
  constexpr std::pair<int, int> kSizes[] = {{1, 1}, {2, 5}, {4, 4}, {7, 9}, {5, 13}};
  std::uint32_t seed = 0;
  for (const std::int64_t batch : {1, 2, 3, 4, 7, 8, 16, 17, 33, 65}) {
    for (const auto& [height, width] : kSizes) {
      WinogradLayer layer = shape(batch, height, width);
      layer.halo = seed % 3;
      layer.activation = kActivations[seed % kActivationCount];
      WinogradCase(layer, 3, 1 + 5 * (seed % 4), seed % 2 == 0, seed).check();
      ++seed;
    }
  }
}

TEST(winograd_however_the_work_is_cut) {
  std::uint32_t seed = 0;
  for (const std::int64_t vectors : {1, 2, 4, 6, 8}) {
    for (const std::int64_t row_blocks : {1, 2, 5}) {
      for (const std::int64_t parts : {1, 2, 3}) {
        WinogradLayer layer = shape(3, 10, 13);
        layer.vectors = vectors;
        layer.row_blocks = row_blocks;
        layer.parts = parts;
        WinogradCase(layer, 4, 50, true, ++seed).check();
      }
    }
  }
}

TEST(winograd_of_any_padding) {
  constexpr std::pair<int, int> kPads[] = {{0, 0}, {2, 2}, {0, 3}, {5, 1}};
  for (const auto& [top, left] : kPads) {
    WinogradLayer layer = shape(4, 6, 5);
    layer.pad_top = top;
    layer.pad_left = left;
    layer.out_height = layer.out_width = 7;
    WinogradCase(layer, 2, 16, false, 1).check();
  }
}

TEST(winograd_written_over_the_skip_branch) {
  for (const std::int64_t batch : {1, 16, 21}) {
    WinogradCase c(shape(batch, 9, 6), 3, 20, true, 2);
    c.layer.y = c.layer.skip;
    c.check();
  }
}

TEST(winograd_sees_a_wrong_weight) {
  WinogradCase c(shape(2, 8, 8), 3, 16, false, 1);
  const Expected expected = c.expected();
  c.weights[5] += 0.01f;
  bool seen = false;
  try {
    expected.compare(executed(Winograd(c.layer), c.arena), 1e-5);
  } catch (const std::runtime_error&) {
    seen = true;
  }
  expect(seen, "the comparison does not see a wrong weight");
}

TEST(winograd_refuses_what_does_not_fit) {
  constexpr std::int64_t kHuge = std::int64_t{1} << 60;
  const WinogradCase c(shape(2, 4, 4), 2, 20, true, 1);
  const std::pair<const char*, void (*)(WinogradLayer*)> changes[] = {
      {"x outside", [](WinogradLayer* l) { l->x.offset = l->arena_elements; }},
      {"x before", [](WinogradLayer* l) { l->x.offset = -1; }},
      {"planes of x that overlap", [](WinogradLayer* l) { l->x.plane = 31; }},
      {"x without planes", [](WinogradLayer* l) { l->x.planes = 0; }},
      {"x too high", [](WinogradLayer* l) { l->height = 1000; }},
      {"x of no width", [](WinogradLayer* l) { l->width = 0; }},
      {"x wider than its pitch", [](WinogradLayer* l) { l->width = l->x_pitch + 1; }},
      {"y outside", [](WinogradLayer* l) { l->y.offset = l->arena_elements - 40; }},
      {"y too far apart", [](WinogradLayer* l) { l->y.plane = kHuge; }},
      {"y wider than its pitch", [](WinogradLayer* l) { l->out_width = l->y_pitch + 1; }},
      {"no halo", [](WinogradLayer* l) { l->halo = -1; }},
      {"halo beyond the pitch", [](WinogradLayer* l) { l->halo = 3; }},
      {"halo before the arena", [](WinogradLayer* l) { l->y.offset = 0, l->halo = 1; }},
      {"skip outside", [](WinogradLayer* l) { l->skip.offset = l->arena_elements - 40; }},
      {"skip of other planes", [](WinogradLayer* l) { l->skip.planes = 19; }},
      {"padding", [](WinogradLayer* l) { l->pad_top = -1; }},
      {"huge padding", [](WinogradLayer* l) { l->pad_left = kHuge; }},
      {"no batch", [](WinogradLayer* l) { l->batch = 0; }},
      {"huge batch", [](WinogradLayer* l) { l->batch = kHuge; }},
      {"weights", [](WinogradLayer* l) { l->weights.size -= 1; }},
      {"bias", [](WinogradLayer* l) { l->bias.size -= 1; }},
      {"three vectors", [](WinogradLayer* l) { l->vectors = 3; }},
      {"ten vectors", [](WinogradLayer* l) { l->vectors = 10; }},
      {"no vectors", [](WinogradLayer* l) { l->vectors = 0; }},
      {"no blocks of rows", [](WinogradLayer* l) { l->row_blocks = 0; }},
      {"more parts than blocks", [](WinogradLayer* l) { l->parts = 3; }},
  };
  c.check();
  for (const auto& [what, change] : changes) {
    WinogradLayer layer = c.layer;
    change(&layer);
    expect_refused(what, [&] { Winograd made(layer); });
  }
}

}  // namespace
}  // namespace masktools
