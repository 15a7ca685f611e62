#include "kernels/depthwise.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/depthwise_kernel.h"
#include "simd/activate.h"
#include "simd/bfloat16.h"
#include "simd/epilogue.h"
#include "simd/pixels.h"
#include "simd/vector.h"

namespace masktools {
namespace {

enum Axis { kLane, kChannel, kY, kX };

constexpr std::int64_t kLargest = std::int64_t{1} << 24;  // of any number that tells a window
constexpr std::int64_t kActivated =
    1024;  // elements that are activated at once: they are still near

bool within_pixels(const DepthwiseLayer& layer) { return layer.x.shape[kLane] % kLanes == 0; }

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("depthwise: ") + what);
}

DepthwiseShape shape_of(const DepthwiseLayer& layer) {
  DepthwiseShape shape{layer.kernel[0], layer.kernel[1], layer.strides[0], layer.dilations[0]};
  if (!within_pixels(layer) && layer.strides[1] != 1) {
    require(layer.strides[1] == 2, "pixels of a row are taken at a stride of 1 or 2");
    shape.every_second = layer.x.shape[kLane];
  }
  return shape;
}

// Throws where a layer is not what DepthwiseLayer tells, but for what lies outside the arena.
void check_layer(const DepthwiseLayer& layer) {
  const View &x = layer.x, &y = layer.y, &skip = layer.skip;
  require(x.rank == 4 && y.rank == 4 && (skip.rank == 0 || skip.rank == 4), "expected rank 4");
  require(x.elements() > 0 && y.elements() > 0, "there are no elements");
  require(x.shape[kLane] == y.shape[kLane] && y.shape[kChannel] % x.shape[kChannel] == 0,
          "the shapes of x and y do not fit");
  if (skip.rank != 0) check_same_shape(skip, y, "depthwise: skip");
  for (int axis = 0; axis < 2; ++axis) {
    require(layer.kernel[axis] >= 1 && layer.strides[axis] >= 1 && layer.dilations[axis] >= 1 &&
                layer.pads[axis] >= 0,
            "impossible window");
    for (std::int64_t n : {layer.kernel[axis], layer.strides[axis], layer.dilations[axis],
                           layer.pads[axis], x.shape[kY + axis], y.shape[kY + axis]}) {
      require(n <= kLargest, "impossible size");
    }
  }
  const std::int64_t channels = y.shape[kChannel];
  require(layer.weights.size / channels == layer.kernel[0] * layer.kernel[1] &&
              layer.weights.size % channels == 0,
          "expected weights of every tap of every channel");
  require(layer.bias.size == 0 || layer.bias.size == channels, "bias and y differ in channels");
  require(layer.strips >= 1 && layer.parts >= 1 && layer.halo >= 0 && layer.halo <= kLargest,
          "impossible strips, parts or halo");
  const auto contiguous = [](const View& v) { return v.shape[kLane] == 1 || v.strides[0] == 1; };
  require(contiguous(x) && contiguous(y) && (skip.rank == 0 || contiguous(skip)),
          "lanes are not next to each other");
  if (within_pixels(layer)) return;
  const auto side_by_side = [](const View& v) {
    return v.shape[kX] == 1 || v.strides[kX] == v.shape[kLane];
  };
  require(side_by_side(x) && side_by_side(y) && (skip.rank == 0 || side_by_side(skip)),
          "pixels are not side by side");
}

// An item is a strip of rows of some channels.
template <class T>
class Depthwise final : public Operation {
 public:
  explicit Depthwise(const DepthwiseLayer& layer) : layer_(layer) {
    // First what bounds the shapes: products of them overflow no more.
    check_readable(layer.x, layer.arena_elements, "depthwise: x");
    check_writable(layer.y, layer.arena_elements, "depthwise: y");
    if (layer.skip.rank != 0) check_readable(layer.skip, layer.arena_elements, "depthwise: skip");
    check_layer(layer);
    kernels_ = depthwise_kernels<T>(shape_of(layer));
    pixel_ = within_pixels(layer) ? layer.x.strides[kX] : layer.x.shape[kLane];
    call_.x_row = layer.x.strides[kY];
    call_.y_row = layer.y.strides[kY];
    call_.skip_row = layer.skip.strides[kY];
    call_.next_row = layer.strides[0] * call_.x_row;
    call_.tap_y = layer.dilations[0] * call_.x_row;
    call_.tap_x = layer.dilations[1] * pixel_;
    call_.kernel_width = layer.kernel[1];
    call_.activation = layer.activation;
    call_.bounded = is_bounds(layer.activation, &call_.bounds);
    activate_rows_ = !call_.bounded && activates_rows();
    call_.bounded = call_.bounded || activate_rows_;
    multiplier_ = layer.y.shape[kChannel] / layer.x.shape[kChannel];
    float zero = 0.0f;
    activate(layer.activation, &zero, 1);
    zeros_stay_ = zero == 0.0f;
    collect_rows();
    collect_columns();
    check_reads();
    check_halo();
    strips_ = std::min<std::int64_t>(layer.strips, rows_.size());
    parts_ = std::min(layer.parts, layer.y.shape[kChannel]);
  }

  std::int64_t items() const override { return strips_ * parts_; }

  void execute(std::int64_t item, const Buffers& buffers, std::byte*) const override {
    T* arena = reinterpret_cast<T*>(buffers.arena);
    const std::int64_t channels = layer_.y.shape[kChannel], tiles = rows_.size();
    const std::int64_t strip = item / parts_, part = item % parts_;
    const std::int64_t first = part_start(strip, strips_, tiles);
    const std::int64_t last = part_start(strip + 1, strips_, tiles);
    const std::int64_t end = part_start(part + 1, parts_, channels);
    for (std::int64_t c = part_start(part, parts_, channels); c < end; ++c) {
      DepthwiseTile<T> tile;
      tile.weights = layer_.weights.data + c * layer_.kernel[0] * layer_.kernel[1];
      tile.bias = layer_.bias.size ? layer_.bias[c] : 0.0f;
      const T* x = arena + layer_.x.offset + c / multiplier_ * layer_.x.strides[kChannel];
      T* y = arena + layer_.y.offset + c * layer_.y.strides[kChannel];
      const T* skip = arena + layer_.skip.offset + c * layer_.skip.strides[kChannel];
      std::int64_t activated = rows_[first].first;  // rows before it are
      for (std::int64_t at = first; at < last; ++at) {
        execute_rows(rows_[at], x, y, skip, tile);
        if (!activate_rows_) continue;
        const std::int64_t made = rows_[at].first + rows_[at].count;
        if (at + 1 < last && (made - activated) * call_.y_row < kActivated) continue;
        activate_rows(y, activated, made);
        activated = made;
      }
    }
  }

 private:
  // Up to kDepthwiseRows rows of the output.
  struct Rows {
    std::int64_t first, count;
    bool whole;  // there is a kernel for all of them, where all taps along x are inside
    Span read;   // rows of x inside the image, from that of tap 0 of the first row on
  };
  // Lanes of a row, from its beginning, and the taps of them inside the image.
  struct Columns {
    std::int64_t x, y, skip;  // in elements
    std::int64_t lanes;
    Span taps;
    bool whole;  // all taps
  };

  Span taps_of(int axis, std::int64_t position) const {
    return inside(position * layer_.strides[axis] - layer_.pads[axis], layer_.dilations[axis],
                  layer_.x.shape[kY + axis], layer_.kernel[axis]);
  }

  // Rows that a kernel takes together, as many as it can.
  void collect_rows() {
    const std::int64_t height = layer_.y.shape[kY];
    for (std::int64_t y = 0; y < height; y += rows_.back().count) {
      Rows rows = rows_at(y, std::min<std::int64_t>(kDepthwiseRows, height - y));
      if (!rows.whole && !(rows.count == kDepthwiseRows && alike(rows))) rows = rows_at(y, 1);
      rows_.push_back(rows);
    }
  }

  Rows rows_at(std::int64_t y, std::int64_t count) const {
    const std::int64_t in = y * layer_.strides[0] - layer_.pads[0];
    const std::int64_t reach = (count - 1) * layer_.strides[0] + layer_.kernel[0];
    const Span read = inside(in, 1, layer_.x.shape[kY], reach);
    const bool whole =
        kernels_.whole[0] && read.first <= kernels_.end && read.last >= reach - kernels_.end;
    return {y, count, whole, read};
  }

  // Whether the same taps of all rows are inside.
  bool alike(const Rows& rows) const {
    return taps_of(0, rows.first) == taps_of(0, rows.first + rows.count - 1);
  }

  void collect_columns() {
    const std::int64_t lanes = layer_.x.shape[kLane], width = layer_.y.shape[kX];
    const Span all = {0, layer_.kernel[1]};
    if (!within_pixels(layer_)) {
      columns_.push_back({-layer_.pads[1] * pixel_, 0, 0, width * lanes, all, true});
      return;
    }
    for (std::int64_t x = 0; x < width; ++x) {
      const std::int64_t in = x * layer_.strides[1] - layer_.pads[1];
      const Span taps = taps_of(1, x);
      columns_.push_back({in * pixel_, x * layer_.y.strides[kX], x * layer_.skip.strides[kX], lanes,
                          taps, taps == all});
    }
  }

  // Vectors that run along pixels reach beyond the elements of x that are checked.
  void check_reads() const {
    if (within_pixels(layer_)) return;
    const View& x = layer_.x;
    std::int64_t low = x.offset, high = x.offset;
    for (int axis : {kChannel, kY}) {
      const std::int64_t reach = (x.shape[axis] - 1) * x.strides[axis];
      (reach < 0 ? low : high) += reach;
    }
    const Columns& row = columns_.front();
    const std::int64_t step = layer_.strides[1];
    const std::int64_t vectors = (row.lanes + kLanes - 1) / kLanes;
    low += row.x;
    high += row.x + (layer_.kernel[1] - 1) * call_.tap_x + vectors * kLanes * step;
    require(low >= -kSlack && high <= layer_.arena_elements + kSlack, "x has no zeros beside it");
  }

  void check_halo() const {
    if (layer_.halo == 0) return;
    const View& y = layer_.y;
    const std::int64_t lanes = layer_.halo * y.shape[kLane];
    const std::int64_t row = y.shape[kX] * y.shape[kLane];
    require(!within_pixels(layer_) && y.offset >= lanes && y.strides[kChannel] >= 0 &&
                (y.shape[kY] == 1 || y.strides[kY] >= row + lanes),
            "y has no room for its halo");
    const std::int64_t last = (y.shape[kChannel] - 1) * y.strides[kChannel] +
                              (y.shape[kY] - 1) * y.strides[kY] + row + lanes;
    require(last <= layer_.arena_elements - y.offset, "y has no room for its halo");
  }

  // Whether sums are written as they are, and then activated, many at once. Bfloat16 would round
  // them before.
  bool activates_rows() const {
    const View& y = layer_.y;
    return std::is_same_v<T, float> && (y.shape[kX] == 1 || y.strides[kX] == y.shape[kLane]);
  }

  // Activates rows [first, last) of a plane of the output.
  void activate_rows(T* y, std::int64_t first, std::int64_t last) const {
    if constexpr (std::is_same_v<T, float>) {
      const std::int64_t row = layer_.y.shape[kX] * layer_.y.shape[kLane];
      const std::int64_t halo = layer_.halo * layer_.y.shape[kLane];
      const bool together = call_.y_row == row + halo && (halo == 0 || zeros_stay_);
      if (together) {
        activate(call_.activation, y + first * call_.y_row, (last - first - 1) * call_.y_row + row);
        return;
      }
      for (std::int64_t at = first; at < last; ++at) {
        activate(call_.activation, y + at * call_.y_row, row);
      }
    }
  }

  void execute_rows(const Rows& rows, const T* x, T* y, const T* skip,
                    DepthwiseTile<T>& tile) const {
    const std::int64_t halo = layer_.halo * layer_.y.shape[kLane];
    x += rows.first * call_.next_row - layer_.pads[0] * call_.x_row;
    y += rows.first * call_.y_row;
    skip += rows.first * call_.skip_row;
    tile.rows = rows.read;
    for (const Columns& columns : columns_) {
      tile.x = x + columns.x;
      tile.y = y + columns.y;
      tile.skip = layer_.skip.rank != 0 ? skip + columns.skip : nullptr;
      tile.lanes = columns.lanes;
      tile.written = columns.lanes + halo;
      tile.taps_x = columns.taps;
      if (rows.whole && columns.whole) {
        kernels_.whole[rows.count - 1](call_, tile);
      } else {
        execute_parts(rows, tile);
      }
    }
    if (halo != 0 && rows.first == 0) std::fill(y - halo, y, T{});
  }

  // Executes rows by the kernels that leave out taps.
  void execute_parts(const Rows& rows, DepthwiseTile<T> tile) const {
    tile.taps_y = taps_of(0, rows.first);
    if (rows.count == kDepthwiseRows && alike(rows)) return kernels_.rows(call_, tile);
    for (std::int64_t r = 0; r < rows.count; ++r) {
      tile.taps_y = taps_of(0, rows.first + r);
      kernels_.row(call_, tile);
      tile.x += call_.next_row;
      tile.y += call_.y_row;
      if (tile.skip) tile.skip += call_.skip_row;
    }
  }

  DepthwiseLayer layer_;
  DepthwiseKernels<T> kernels_;
  DepthwiseCall call_;
  bool activate_rows_ = false;
  bool zeros_stay_ = true;   // where they are activated
  std::int64_t multiplier_;  // rows of each channel
  std::int64_t pixel_;       // of x, in elements
  std::vector<Rows> rows_;
  std::vector<Columns> columns_;
  std::int64_t strips_ = 1, parts_ = 1;
};

}  // namespace

template <class T>
std::unique_ptr<const Operation> make_depthwise(const DepthwiseLayer& layer) {
  return std::make_unique<Depthwise<T>>(layer);
}

template std::unique_ptr<const Operation> make_depthwise<float>(const DepthwiseLayer&);
template std::unique_ptr<const Operation> make_depthwise<Bfloat16>(const DepthwiseLayer&);

}  // namespace masktools
