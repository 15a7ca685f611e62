#include "narrow.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "convolution.h"
#include "epilogue.h"

namespace masktools {
namespace {

// Lanes that one kernel keeps sums of: few enough for their addresses to stay in registers.
constexpr int kSums = 8;

// Rows of the widest kernel on one group's weights, and on those of two with the same columns.
constexpr int kWidth = kLanes < kMaxRows ? kLanes : kMaxRows;
constexpr bool kPairs = kLanes == 2 * kMaxRows;

// Rows of `sums`, of two groups.
constexpr std::int64_t kSumRows = 2 * kMaxRows;

// Weights are fetched this many floats ahead: a few columns cost less time than memory takes.
constexpr std::int64_t kAhead = 512;

template <int kRows>
struct RowVector {
  typedef float type __attribute__((vector_size(4 * kRows)));
};
template <>
struct RowVector<1> {
  typedef float type;
};

template <int kRows>
typename RowVector<kRows>::type load(const float* from) {
  typename RowVector<kRows>::type v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// The weights of one column. `second`: from those of a group to those of the other of its pair.
template <int kRows>
typename RowVector<kRows>::type load_weights(const float* from,
                                             [[maybe_unused]] std::int64_t second) {
#ifdef __AVX512DQ__
  if constexpr (kRows == kSumRows) {
    return reinterpret_cast<Vector>(_mm512_insertf32x8(
        _mm512_castps256_ps512(_mm256_loadu_ps(from)), _mm256_loadu_ps(from + second), 1));
  }
#endif
  return load<kRows>(from);
}

// sums[lane[l] * kSumRows] += weights[k * stride] * x[input[l] + offsets[k]], for k < columns and
// l < kCount; every product is of kRows rows.
template <int kRows, int kCount>
void accumulate_lanes(const float* x, const std::int64_t* input, const std::int32_t* offsets,
                      std::int64_t columns, const float* weights, std::int64_t stride,
                      std::int64_t second, float* sums, const std::int32_t* lane) {
  using V = typename RowVector<kRows>::type;
  // Sums of each lane in flight: enough to hide the latency of a multiplication.
  constexpr int kSplit = kCount <= 2 ? 4 : kCount <= 4 || kRegisters == 32 ? 2 : 1;
  V sum[kCount][kSplit] = {};
  const float* in[kCount];
  for (int l = 0; l < kCount; ++l) in[l] = x + input[l];
  std::int64_t k = 0;
  for (; k + kSplit <= columns; k += kSplit) {
    __builtin_prefetch(weights + kAhead);
    if (kRows == kSumRows) __builtin_prefetch(weights + second + kAhead);
    for (int s = 0; s < kSplit; ++s) {
      const V w = load_weights<kRows>(weights + s * stride, second);
      const std::int64_t offset = offsets[k + s];
      for (int l = 0; l < kCount; ++l) sum[l][s] += w * in[l][offset];
    }
    weights += kSplit * stride;
  }
  for (; k < columns; ++k, weights += stride) {
    const V w = load_weights<kRows>(weights, second);
    for (int l = 0; l < kCount; ++l) sum[l][0] += w * in[l][offsets[k]];
  }
  for (int l = 0; l < kCount; ++l) {
    float* to = sums + lane[l] * kSumRows;
    V total = load<kRows>(to);
    for (int s = 0; s < kSplit; ++s) total += sum[l][s];
    std::memcpy(to, &total, sizeof total);
  }
}

using Accumulate = void (*)(const float*, const std::int64_t*, const std::int32_t*, std::int64_t,
                            const float*, std::int64_t, std::int64_t, float*, const std::int32_t*);

template <int kRows>
Accumulate accumulate_for(std::int64_t lanes) {
  constexpr Accumulate kKernels[kSums] = {accumulate_lanes<kRows, 1>, accumulate_lanes<kRows, 2>,
                                          accumulate_lanes<kRows, 3>, accumulate_lanes<kRows, 4>,
                                          accumulate_lanes<kRows, 5>, accumulate_lanes<kRows, 6>,
                                          accumulate_lanes<kRows, 7>, accumulate_lanes<kRows, 8>};
  return kKernels[lanes - 1];
}

Accumulate accumulate_for(std::int64_t rows, std::int64_t lanes) {
  if (kPairs && rows == kSumRows) return accumulate_for<kPairs ? kSumRows : 1>(lanes);
  if (rows == kWidth) return accumulate_for<kWidth>(lanes);
  return rows == 4   ? accumulate_for<4>(lanes)
         : rows == 2 ? accumulate_for<2>(lanes)
                     : accumulate_for<1>(lanes);
}

}  // namespace

Narrow::Narrow(const Layer& layer) : layer_(layer) {
  const Convolution checked(layer);  // the same arrays under the same rules
  if (!std::all_of(layer.runs.data, layer.runs.data + layer.runs.size, is_contiguous)) {
    throw std::invalid_argument("narrow: vectors of a run lie apart");
  }
  collect_lanes();
  collect_segments();
  bool pooled = false, partial = false;
  for (const Lane& lane : lanes_) pooled |= lane.combine != Combine::kStore;
  for (std::int64_t g = 0; g < layer.flags.size; ++g) partial |= layer.flags[g] != (kFirst | kLast);
  if (pooled && partial) {
    throw std::invalid_argument("narrow: rows of several groups cannot be pooled");
  }
}

void Narrow::collect_lanes() {
  for (std::int64_t r = 0; r < layer_.runs.size; ++r) {
    const Run& run = layer_.runs[r];
    for (std::int64_t i = 0; i < run.lanes; ++i) {
      const bool masked = run.mask >= 0 && layer_.masks[run.mask + i] == 0;
      lanes_.push_back({run.output + i, run.combine, masked});
    }
  }
}

void Narrow::collect_segments() {
  const std::int64_t groups = layer_.offset_starts.size;
  const std::int64_t taps = groups ? layer_.tap_starts.size / groups - 1 : 0;
  const auto meets = [&](const Run& run, std::int64_t tap) {
    for (std::int64_t s = layer_.tap_set_starts[run.tap_set];
         s < layer_.tap_set_starts[run.tap_set + 1]; ++s) {
      if (layer_.tap_sets[2 * s] <= tap && tap < layer_.tap_sets[2 * s + 1]) return true;
    }
    return false;
  };
  for (std::int64_t tap = 0; tap < taps; ++tap) {
    Segment segment{tap, tap + 1, {}, {}};
    std::int32_t lane = 0;
    for (std::int64_t r = 0; r < layer_.runs.size; ++r) {
      const Run& run = layer_.runs[r];
      const bool met = meets(run, tap);
      for (std::int64_t i = 0; i < run.lanes; ++i, ++lane) {
        if (!met || lanes_[lane].masked) continue;
        segment.inputs.push_back(run.input + i);
        segment.lanes.push_back(lane);
      }
    }
    if (!segments_.empty() && segments_.back().lanes == segment.lanes) {
      segments_.back().last = tap + 1;
    } else {
      segments_.push_back(std::move(segment));
    }
  }
}

std::int64_t Narrow::scratch_elements() const {
  return static_cast<std::int64_t>(lanes_.size()) * kSumRows;
}

// Whether a group and the next have as many rows as a kernel takes, and read the same columns.
bool Narrow::is_pair(std::int64_t group) const {
  const std::int64_t taps = layer_.tap_starts.size / layer_.offset_starts.size;
  const std::int32_t* starts = layer_.tap_starts.data + group * taps;
  return layer_.row_starts[group + 2] - layer_.row_starts[group] == kSumRows &&
         layer_.offset_starts[group] == layer_.offset_starts[group + 1] &&
         std::equal(starts, starts + taps, starts + taps);
}

void Narrow::execute(std::int64_t item, float* arena, float* scratch) const {
  const std::int64_t first = layer_.panel_starts[layer_.part_starts[item]];
  const std::int64_t last = layer_.panel_starts[layer_.part_starts[item + 1]];
  for (std::int64_t group = first; group < last;) {
    const std::int64_t groups = kPairs && group + 1 < last && is_pair(group) ? 2 : 1;
    std::fill(scratch, scratch + scratch_elements(), 0.0f);
    accumulate(group, groups, arena, scratch);
    for (std::int64_t g = 0; g < groups; ++g) finish(group + g, scratch + g * kMaxRows, arena);
    group += groups;
  }
}

// Adds the products of a group, or of a pair, to `sums`, [lane][kSumRows]. Groups of 3, 5, 6 or 7
// rows go over their weights once for each power of two in that number.
void Narrow::accumulate(std::int64_t group, std::int64_t groups, const float* arena,
                        float* sums) const {
  const std::int64_t taps = layer_.tap_starts.size / layer_.offset_starts.size;
  const std::int32_t* starts = layer_.tap_starts.data + group * taps;
  const std::int32_t* offsets = layer_.offsets.data + layer_.offset_starts[group];
  const float* weights = layer_.weights.data + layer_.weight_starts[group];
  const std::int64_t rows = layer_.row_starts[group + 1] - layer_.row_starts[group];
  const std::int64_t second =
      groups == 2 ? layer_.weight_starts[group + 1] - layer_.weight_starts[group] : 0;
  const float* x = arena + layer_.x.offset;
  for (const Segment& segment : segments_) {
    const std::int64_t begin = starts[segment.first];
    const std::int64_t columns = starts[segment.last] - begin;
    const std::int64_t lanes = static_cast<std::int64_t>(segment.lanes.size());
    const std::int64_t passes = (lanes + kSums - 1) / kSums;
    if (columns == 0) continue;
    for (std::int64_t pass = 0; pass < passes; ++pass) {
      const std::int64_t lane = pass * lanes / passes;
      const std::int64_t count = (pass + 1) * lanes / passes - lane;
      std::int64_t width = groups == 2 ? kSumRows : kWidth;
      for (std::int64_t row = 0; row < rows; row += width) {
        while (width > groups * rows - row) width /= 2;
        accumulate_for(width, count)(x, segment.inputs.data() + lane, offsets + begin, columns,
                                     weights + begin * rows + row, rows, second, sums + row,
                                     segment.lanes.data() + lane);
      }
    }
  }
}

// Writes a group's rows: its sums, at [lane][kSumRows], begin with the bias and the skip branch,
// which the rows may be written over, or with what the rows hold.
void Narrow::finish(std::int64_t group, const float* sums, float* arena) const {
  const std::int64_t first = layer_.row_starts[group];
  const std::int64_t rows = layer_.row_starts[group + 1] - first;
  const bool begins = layer_.flags[group] & kFirst, ends = layer_.flags[group] & kLast;
  float bias[kMaxRows] = {};
  for (std::int64_t r = 0; begins && layer_.bias.size && r < rows; ++r) {
    bias[r] = layer_.bias[layer_.rows[first + r]];
  }
  const Planes& held = begins ? layer_.skip : layer_.y;
  for (std::size_t l = 0; l < lanes_.size(); ++l) {
    const Lane& lane = lanes_[l];
    float* y = arena + layer_.y.offset + lane.output;
    const float* from = arena + held.offset + lane.output;
    float v[kMaxRows];
    for (int r = 0; r < kMaxRows; ++r) v[r] = sums[l * kSumRows + r] + bias[r];
    for (std::int64_t r = 0; held.planes && r < rows; ++r) {
      v[r] += from[layer_.rows[first + r] * held.plane];
    }
    for (int r = 0; ends && r < kMaxRows; r += kWidth) {
      const auto done = activate(layer_.activation, load<kWidth>(v + r)) * layer_.scale;
      std::memcpy(v + r, &done, sizeof done);
    }
    for (std::int64_t r = 0; r < rows; ++r) {
      float& to = y[layer_.rows[first + r] * layer_.y.plane];
      const float value = lane.masked ? 0.0f : v[r];
      to = lane.combine == Combine::kMax   ? maximum(to, value)
           : lane.combine == Combine::kAdd ? to + value
                                           : value;
    }
  }
}

}  // namespace masktools
