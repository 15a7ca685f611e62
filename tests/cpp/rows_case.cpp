#include "rows_case.h"

#include <algorithm>
#include <cmath>

#include "definitions.h"

namespace masktools {

RowsCase::RowsCase(const RowsLayer& wanted, std::int64_t channels, std::int64_t rows, double share,
                   bool skip, std::uint32_t seed)
    : layer(wanted) {
  Random random(seed);
  lay_out(channels, rows, skip, &random);
  choose_nonzeros(share, &random);
  if (seed % 4 != 0) bias = random.numbers(rows);
  layer.weights = array(weights);
  layer.columns = array(columns);
  layer.starts = array(starts);
  layer.bias = array(bias);
  layer.arena_elements = static_cast<std::int64_t>(arena.size());
}

// Pixels of x and of the skip branch are numbers, all around them NaN.
void RowsCase::lay_out(std::int64_t channels, std::int64_t rows, bool skip, Random* random) {
  ImageShape &in = layer.in, &out = layer.out;
  in.pitch = in.width + random->below(3);
  out.pitch = out.width + layer.halo + random->below(2);
  const std::int64_t halo = layer.halo * out.batch;
  const std::int64_t x_plane = in.height * in.pitch * in.batch + 3;
  const std::int64_t y_plane = out.height * out.pitch * out.batch + halo + 5;
  layer.x = {7, channels, x_plane};
  layer.y = {7 + channels * x_plane + halo, rows, y_plane};
  layer.skip = {layer.y.offset + rows * y_plane, skip ? rows : 0, y_plane};
  arena.assign(layer.skip.offset + layer.skip.planes * y_plane + 2, std::nanf(""));
  fill(layer.x, in, random);
  fill(layer.skip, out, random);
}

void RowsCase::fill(const Planes& planes, const ImageShape& image, Random* random) {
  for (std::int64_t p = 0; p < planes.planes * image.height; ++p) {
    float* row = arena.data() + planes.offset + p / image.height * planes.plane +
                 p % image.height * image.pitch * image.batch;
    for (std::int64_t i = 0; i < image.width * image.batch; ++i) row[i] = random->number();
  }
}

void RowsCase::choose_nonzeros(double share, Random* random) {
  const std::int64_t taps = layer.taps.count(), all = layer.x.planes * taps;
  const std::int64_t panel = layer.panel_channels * taps;
  filters.assign(layer.y.planes * all, 0.0f);
  for (std::int64_t first = 0; first < all; first += panel) {
    for (std::int64_t row = 0; row < layer.y.planes; ++row) {
      starts.push_back(static_cast<std::int32_t>(weights.size()));
      for (std::int64_t column = first; column < std::min(first + panel, all); ++column) {
        if (row % 5 == 2 || (random->number() + 1) / 2 >= share) continue;
        weights.push_back(random->number());
        columns.push_back(static_cast<std::uint16_t>(column - first));
        filters[row * all + column] = weights.back();
      }
    }
  }
  starts.push_back(static_cast<std::int32_t>(weights.size()));
}

// An output of the convolution, before the skip branch is added.
double RowsCase::sum(std::int64_t row, std::int64_t y, std::int64_t x, std::int64_t n) const {
  const Taps& t = layer.taps;
  const ImageShape& in = layer.in;
  const std::int64_t taps = t.count(), all = layer.x.planes * taps;
  double sum = bias.empty() ? 0.0 : bias[row];
  for (std::int64_t i = 0; i < all; ++i) {
    const double weight = filters[row * all + i];
    if (weight == 0) continue;
    const std::int64_t in_y = y * t.stride_y - t.pad_top + i % taps / t.kernel_x * t.dilation_y;
    const std::int64_t in_x = x * t.stride_x - t.pad_left + i % taps % t.kernel_x * t.dilation_x;
    if (in_y < 0 || in_y >= in.height || in_x < 0 || in_x >= in.width) continue;
    const std::int64_t pixel = (in_y * in.pitch + in_x) * in.batch + n;
    sum += weight * arena[layer.x.offset + i / taps * layer.x.plane + pixel];
  }
  return sum;
}

// An output of the layer: what a pooling window combines.
double RowsCase::output(std::int64_t row, std::int64_t y, std::int64_t x, std::int64_t n) const {
  const ImageShape& out = layer.out;
  double made = 0;
  for (std::int64_t p = 0; p < layer.pool_y * layer.pool_x; ++p) {
    const std::int64_t at_y = y * layer.pool_y + p / layer.pool_x;
    const std::int64_t at_x = x * layer.pool_x + p % layer.pool_x;
    double value = sum(row, at_y, at_x, n);
    if (layer.skip.planes) {
      const std::int64_t pixel = (at_y * out.pitch + at_x) * out.batch + n;
      value += arena[layer.skip.offset + row * layer.skip.plane + pixel];
    }
    value = activated(layer.activation, value) * layer.scale;
    made = p == 0 ? value : layer.combine == Combine::kMax ? std::max(made, value) : made + value;
  }
  return made;
}

Expected RowsCase::expected() const {
  const ImageShape& out = layer.out;
  Expected expected(arena);
  for (std::int64_t row = 0; row < layer.y.planes; ++row) {
    const std::int64_t plane = layer.y.offset + row * layer.y.plane;
    for (std::int64_t i = 1; i <= layer.halo * out.batch; ++i) expected.set(plane - i, 0.0);
    for (std::int64_t y = 0; y < out.height; ++y) {
      for (std::int64_t x = 0; x < out.width + layer.halo; ++x) {
        for (std::int64_t n = 0; n < out.batch; ++n) {
          const std::int64_t at = (y * out.pitch + x) * out.batch + n;
          expected.set(plane + at, x < out.width ? output(row, y, x, n) : 0.0);
        }
      }
    }
  }
  return expected;
}

RowsLayer same_size(std::int64_t batch, std::int64_t height, std::int64_t width) {
  RowsLayer layer;
  layer.in = layer.out = {height, width, 0, batch};
  layer.taps.kernel_y = layer.taps.kernel_x = 3;
  layer.taps.pad_top = layer.taps.pad_left = 1;
  layer.panel_channels = 2;
  return layer;
}

}  // namespace masktools
