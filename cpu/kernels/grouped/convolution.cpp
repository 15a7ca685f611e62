#include "kernels/grouped/convolution.h"

#include <algorithm>

#include "kernels/grouped/kernel.h"

namespace masktools {
namespace {

// The least height of a layer's groups is the one whose kernel is the widest.
std::int64_t widest(const Layer& layer) {
  std::int64_t rows = kMaxRows;
  for (std::int64_t g = 0; g < layer.flags.size; ++g) {
    rows = std::min(rows, layer.row_starts[g + 1] - layer.row_starts[g]);
  }
  return vectors(static_cast<int>(rows));
}

bool pooled(const Layer& layer) {
  return std::any_of(layer.runs.data, layer.runs.data + layer.runs.size,
                     [](const Run& run) { return run.combine != Combine::kStore; });
}

bool summed_in_parts(const Layer& layer) {
  return std::any_of(layer.flags.data, layer.flags.data + layer.flags.size,
                     [](std::int32_t flags) { return flags != (kFirst | kLast); });
}

}  // namespace

Convolution::Convolution(const Layer& layer) : layer_(layer) {
  check(layer);
  collect_groups();
  chunks_ = layer.chunk_starts.size - 1;
  parts_ = layer.part_starts.size - 1;
  call_.activation = layer.activation;
  call_.bounded = is_bounds(layer.activation, &call_.bounds);
  call_.scale = layer.scale;
  call_.prefetch = layer.prefetch;
  if (layer_.tile_vectors == 0) layer_.tile_vectors = widest(layer);
  // What the output holds is the sum of other pixels: partial sums go elsewhere.
  partial_sums_apart_ = summed_in_parts(layer) && pooled(layer);
  if (partial_sums_apart_) {
    scratch_elements_ = layer.y.planes * layer_.tile_vectors * kLanes;
  }
}

void Convolution::collect_groups() {
  const std::int64_t taps = layer_.tap_starts.size / layer_.flags.size;
  for (std::int64_t g = 0; g < layer_.flags.size; ++g) {
    groups_.push_back({layer_.offsets.data + layer_.offset_starts[g],
                       layer_.tap_starts.data + g * taps,
                       layer_.weights.data + layer_.weight_starts[g],
                       layer_.rows.data + layer_.row_starts[g], layer_.flags[g]});
  }
  for (std::int64_t panel = 0; panel + 1 < layer_.panel_starts.size; ++panel) {
    panel_stretches_.push_back(static_cast<std::int64_t>(stretches_.size()));
    const std::int64_t last = layer_.panel_starts[panel + 1];
    for (std::int64_t g = layer_.panel_starts[panel]; g < last; ++g) {
      const std::int64_t rows = layer_.row_starts[g + 1] - layer_.row_starts[g];
      if (g == layer_.panel_starts[panel] || stretches_.back().rows != rows) {
        stretches_.push_back({g, g, rows});
      }
      stretches_.back().last = g + 1;
    }
  }
  panel_stretches_.push_back(static_cast<std::int64_t>(stretches_.size()));
}

void Convolution::execute(std::int64_t item, float* arena, float* scratch) const {
  const std::int64_t chunk = layer_.parts_first ? item / parts_ : item % chunks_;
  const std::int64_t part = layer_.parts_first ? item % parts_ : item / chunks_;
  const std::int64_t first_panel = layer_.part_starts[part];
  const std::int64_t last_panel = layer_.part_starts[part + 1];
  // All panels go over a tile at once where their partial sums are kept for one tile alone.
  const std::int64_t step =
      partial_sums_apart_ ? std::max<std::int64_t>(last_panel - first_panel, 1) : 1;
  for (std::int64_t panel = first_panel; panel < last_panel; panel += step) {
    for (std::int64_t r = layer_.chunk_starts[chunk]; r < layer_.chunk_starts[chunk + 1]; ++r) {
      execute_run(layer_.runs[r], panel, panel + step, arena, scratch);
    }
  }
}

// Executes panels of groups on one run, tile by tile.
void Convolution::execute_run(const Run& run, std::int64_t first_panel, std::int64_t last_panel,
                              float* arena, float* scratch) const {
  const float* x = arena + layer_.x.offset + run.input;
  float* y = arena + layer_.y.offset + run.output;
  const float* skip = layer_.skip.planes ? arena + layer_.skip.offset + run.output : nullptr;
  Tile tile;
  tile.taps = layer_.tap_sets.data + 2 * layer_.tap_set_starts[run.tap_set];
  tile.ranges = layer_.tap_set_starts[run.tap_set + 1] - layer_.tap_set_starts[run.tap_set];
  tile.bias = layer_.bias.size ? layer_.bias.data : nullptr;
  tile.combine = run.combine;
  tile.y_plane = layer_.y.plane;
  tile.skip_plane = layer_.skip.plane;
  tile.partial_plane = partial_sums_apart_ ? layer_.tile_vectors * kLanes : layer_.y.plane;
  tile.x_step = run.input_step;
  tile.y_step = run.output_step;
  tile.partial_step = partial_sums_apart_ ? kLanes : run.output_step;
  tile.contiguous = is_contiguous(run);
  const std::int64_t vectors = (run.lanes + kLanes - 1) / kLanes;
  const std::int64_t tiles = (vectors + layer_.tile_vectors - 1) / layer_.tile_vectors;
  for (std::int64_t t = 0; t < tiles; ++t) {
    const std::int64_t begin = t * vectors / tiles, end = (t + 1) * vectors / tiles;
    const std::int64_t lane = begin * kLanes;
    tile.x = x + begin * run.input_step;
    tile.y = y + begin * run.output_step;
    tile.skip = skip ? skip + begin * run.output_step : nullptr;
    tile.partial = partial_sums_apart_ ? scratch : tile.y;
    tile.mask = run.mask >= 0 ? layer_.masks.data + run.mask + lane : nullptr;
    tile.lanes = std::min(run.lanes - lane, (end - begin) * kLanes);
    for (std::int64_t s = panel_stretches_[first_panel]; s < panel_stretches_[last_panel]; ++s) {
      execute_tile(tile, stretches_[s]);
    }
  }
}

// Executes groups on a tile, as wide a kernel at a time as there is for their rows. Where that
// takes several, each group goes over the whole tile before the next: its weights are read from
// near.
void Convolution::execute_tile(const Tile& whole, const Stretch& stretch) const {
  const std::int64_t count = (whole.lanes + kLanes - 1) / kLanes;
  const std::int64_t widest =
      whole.contiguous ? vectors(stretch.rows) : vectors_apart(stretch.rows);
  const std::int64_t passes = (count + widest - 1) / widest;
  const std::int64_t step = passes > 1 ? 1 : stretch.last - stretch.first;
  Tile tile = whole;
  for (std::int64_t g = stretch.first; g < stretch.last; g += step) {
    for (std::int64_t pass = 0; pass < passes; ++pass) {
      const std::int64_t begin = pass * count / passes, end = (pass + 1) * count / passes;
      const std::int64_t lane = begin * kLanes;
      tile.x = whole.x + begin * whole.x_step;
      tile.y = whole.y + begin * whole.y_step;
      tile.partial = whole.partial + begin * whole.partial_step;
      tile.skip = whole.skip ? whole.skip + begin * whole.y_step : nullptr;
      tile.mask = whole.mask ? whole.mask + lane : nullptr;
      tile.lanes = std::min(whole.lanes - lane, (end - begin) * kLanes);
      kernel_of(stretch.rows, end - begin, tile.contiguous)(call_, tile, groups_.data() + g,
                                                            groups_.data() + g + step);
    }
  }
}

}  // namespace masktools
