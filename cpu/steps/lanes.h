// Results that each take many elements, worked on side by side.
#pragma once

#include <algorithm>
#include <cstdint>

#include "program/view.h"
#include "simd/vector.h"
#include "steps/floats.h"

namespace masktools {

constexpr std::int64_t kBlock = 64;  // results that are worked on side by side

// The results of an operation and how they are cut into items: neighbours along the innermost axis
// of view 0 are the lanes of a block.
template <int kViews>
class Lanes {
 public:
  // Views of one shape, an entry for each result; `elements`: what a result takes.
  Lanes(const std::array<View, kViews>& views, std::int64_t elements) : nest_(views) {
    const std::int64_t rows = nest_.outer(), lanes = nest_.inner();
    if (elements == 0 || rows * lanes == 0) return;
    const std::int64_t wanted = std::min(rows * lanes * elements / kItemElements + 1, kMostItems);
    pieces_ = std::min((lanes + kBlock - 1) / kBlock, wanted);
    items_ = std::min(rows * pieces_, wanted);
  }

  std::int64_t items() const { return items_; }
  std::int64_t stride(int view) const { return nest_.inner_stride(view); }

  // Calls block(offsets, lanes) with the offset of each view, for at most kBlock lanes.
  template <class Block>
  void for_each(std::int64_t item, const Block& block) const {
    const std::int64_t lanes = nest_.inner(), units = nest_.outer() * pieces_;
    const std::int64_t last = part_start(item + 1, items_, units);
    for (std::int64_t unit = part_start(item, items_, units); unit < last; ++unit) {
      const std::int64_t row = unit / pieces_, piece = unit % pieces_;
      const std::int64_t begin = part_start(piece, pieces_, lanes);
      const std::int64_t end = part_start(piece + 1, pieces_, lanes);
      for_each_row<1>(nest_, row, row + 1, [&](std::array<std::int64_t, kViews> at) {
        for (int v = 0; v < kViews; ++v) at[v] += begin * stride(v);
        for (std::int64_t i = begin; i < end; i += kBlock) {
          block(at, std::min(kBlock, end - i));
          for (int v = 0; v < kViews; ++v) at[v] += kBlock * stride(v);
        }
      });
    }
  }

 private:
  static constexpr std::int64_t kItemElements = 4096;
  static constexpr std::int64_t kMostItems = 4096;

  const Nest<kViews> nest_;
  std::int64_t pieces_ = 1;
  std::int64_t items_ = 0;
};

// Whether each lane is best worked on by itself, along what it takes: where there are few lanes, or
// its elements lie together and those of the lanes do not.
inline bool one_by_one(std::int64_t lanes, std::int64_t lane_stride, std::int64_t elements,
                       std::int64_t stride) {
  if (stride == 1 && lane_stride != 1 && elements >= kLanes) return true;
  return lanes < kLanes && lanes * 2 <= elements;
}

// --- folding: sums and extremes -----------------------------------------------------------------

// to[i] = join(to[i], map(from[i * stride], i)) for i < n, at most kBlock.
template <class Fold, class T, class Map>
void fold_row(const T* from, std::int64_t stride, float* to, std::int64_t n, const Map& map) {
  float buffer[kBlock];
  const float* x = as_floats(from, stride, n, buffer);
  for (std::int64_t i = 0; i < n; ++i) to[i] = Fold::join(to[i], map(x[i], i));
}

// made[i] = what lane i takes, folded: elements from[at + i * lane_stride] for each place of
// `along`, through map(element, lane). Many parts are kept and then joined, which keeps the
// rounding errors of sums small.
template <class Fold, class T, class Map>
__attribute__((noinline)) void fold_lanes(const Nest<1>& along, const T* from,
                                          std::int64_t lane_stride, std::int64_t lanes, float* made,
                                          const Map& map) {
  const std::int64_t n = along.inner(), stride = along.inner_stride(0);
  const bool single = one_by_one(lanes, lane_stride, n, stride);
  std::fill_n(made, lanes, Fold::kFirst);
  for_each_row<1>(along, 0, along.outer(), [&](const std::array<std::int64_t, 1>& at) {
    const T* row = from + at[0];
    for (std::int64_t lane = 0; single && lane < lanes; ++lane) {
      float parts[kBlock];
      std::fill_n(parts, kBlock, Fold::kFirst);
      for (std::int64_t k = 0; k < n; k += kBlock) {
        fold_row<Fold>(row + lane * lane_stride + k * stride, stride, parts,
                       std::min(kBlock, n - k),
                       [&](float x, std::int64_t) { return map(x, lane); });
      }
      for (std::int64_t half = kBlock / 2; half > 0; half /= 2) {
        for (std::int64_t i = 0; i < half; ++i) parts[i] = Fold::join(parts[i], parts[i + half]);
      }
      made[lane] = Fold::join(made[lane], parts[0]);
    }
    for (std::int64_t k = 0; !single && k < n; k += kBlock) {
      float parts[kBlock];
      std::fill_n(parts, lanes, Fold::kFirst);
      for (std::int64_t j = k; j < std::min(k + kBlock, n); ++j) {
        fold_row<Fold>(row + j * stride, lane_stride, parts, lanes, map);
      }
      for (std::int64_t i = 0; i < lanes; ++i) made[i] = Fold::join(made[i], parts[i]);
    }
  });
}

struct Sum {
  static constexpr float kFirst = 0;
  static float join(float a, float b) { return a + b; }
};

}  // namespace masktools
