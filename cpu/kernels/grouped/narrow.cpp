#include "kernels/grouped/narrow.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "simd/epilogue.h"

namespace masktools {
namespace {

// Columns that all lanes go over before the next, where they need several kernels: their weights
// stay in the first level of the cache.
constexpr std::int64_t kChunk = 64;

// Floats that weights are fetched ahead: what kernels take in the time that memory needs.
constexpr std::int64_t kAhead = 2048;

// Lanes whose sums the registers hold, of so many vectors of rows; beside them the weights of a
// column and a pixel. Where registers are many, addresses are what is short.
constexpr int lanes_at_once(int vectors) {
  return kRegisters == 32 ? (vectors == 2 ? 12 : 16) : 12 / vectors;
}

// Columns [0, count) of a group, all its rows.
struct Columns {
  const float* x;
  const std::int32_t* offsets;
  const float* weights;
  std::int64_t count;
  std::int64_t rows;
  const float* next;      // weights to fetch meanwhile, a share of them at each column, so that
  std::int64_t per_next;  // memory is never waited for nor idle
};

template <class V>
V load_rows(const float* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

// f(0), f(1) ... f(kCount - 1), written out: sums stay in registers where every index is a
// constant.
template <class F, int... kIndex>
inline void repeat(std::integer_sequence<int, kIndex...>, const F& f) {
  (f(std::integral_constant<int, kIndex>()), ...);
}

// sums[lane[l]][rows] += weights[k][rows] * x[input[l] + offsets[k]], for each column k and l <
// kCount; rows are those of kVectors vectors.
template <class V, int kVectors, int kCount>
void accumulate_lanes(const Columns& columns, const std::int64_t* input, const std::int32_t* lane,
                      float* sums) {
  constexpr int kWidth = sizeof(V) / sizeof(float), kSums = kCount * kVectors;
  // Sums of each lane in flight: enough to hide the latency of a multiplication.
  constexpr int kSplit = kSums >= 8 ? 1 : kSums >= 4 ? 2 : 4;
  constexpr auto kEach = std::make_integer_sequence<int, kSums>();
  const auto at = [&](int i) {
    return sums + lane[i / kVectors] * kNarrowRows + i % kVectors * kWidth;
  };
  V sum[kSums][kSplit] = {};
  const float* in[kCount];
  for (int l = 0; l < kCount; ++l) in[l] = columns.x + input[l];
  const float *weights = columns.weights, *next = columns.next;
  const std::int64_t rows = columns.rows, per_next = columns.per_next;
  const std::int32_t* offsets = columns.offsets;
  const std::int32_t* const end = offsets + columns.count;
  const auto add = [&](int split) {
    __builtin_prefetch(next);
    if constexpr (kVectors > 1) __builtin_prefetch(next + per_next / 2);
    V w[kVectors];
    for (int v = 0; v < kVectors; ++v) w[v] = load_rows<V>(weights + v * kWidth);
    const std::int64_t offset = offsets[split];
    repeat(kEach, [&](auto i) { sum[i][split] += w[i % kVectors] * in[i / kVectors][offset]; });
    weights += rows;
    next += per_next;
  };
  if constexpr (kSplit > 1) {
    for (; end - offsets >= kSplit; offsets += kSplit) {
      for (int split = 0; split < kSplit; ++split) add(split);
    }
  }
  for (; offsets < end; ++offsets) add(0);
  repeat(kEach, [&](auto i) {
    V total = load_rows<V>(at(i));
    for (int split = 0; split < kSplit; ++split) total += sum[i][split];
    std::memcpy(at(i), &total, sizeof total);
  });
}

using Accumulate = void (*)(const Columns&, const std::int64_t*, const std::int32_t*, float*);

template <class V, int kVectors, int... kIndex>
constexpr std::array<Accumulate, sizeof...(kIndex)> kernels(std::integer_sequence<int, kIndex...>) {
  return {accumulate_lanes<V, kVectors, kIndex + 1>...};
}

// Kernels by their lanes less one: of a row, of a vector of rows, of two.
template <class V, int kVectors>
constexpr auto kKernels =
    kernels<V, kVectors>(std::make_integer_sequence<int, lanes_at_once(kVectors)>());

}  // namespace

Narrow::Narrow(const Layer& layer) : layer_(layer) {
  check(layer, kNarrowWeights);
  if (!std::all_of(layer.runs.data, layer.runs.data + layer.runs.size, is_contiguous)) {
    throw std::invalid_argument("narrow: vectors of a run lie apart");
  }
  collect_spans();
  collect_segments();
  bool pooled = false, partial = false;
  for (const Span& span : spans_) pooled |= span.combine != Combine::kStore;
  for (std::int64_t g = 0; g < layer.flags.size; ++g) partial |= layer.flags[g] != (kFirst | kLast);
  if (pooled && partial) {
    throw std::invalid_argument("narrow: rows of several groups cannot be pooled");
  }
}

void Narrow::collect_spans() {
  for (std::int64_t r = 0; r < layer_.runs.size; ++r) {
    const Run& run = layer_.runs[r];
    const std::int64_t first = lanes_;
    lanes_ += run.lanes;
    for (std::int64_t i = 0; i < run.lanes; ++i) {
      masks_.push_back(run.mask < 0 ? -1 : layer_.masks[run.mask + i]);
    }
    const bool follows = !spans_.empty() && spans_.back().combine == run.combine &&
                         spans_.back().output + first - spans_.back().first == run.output;
    if (follows) {
      spans_.back().last = lanes_;
    } else {
      spans_.push_back({run.output, first, lanes_, run.combine});
    }
  }
  masks_.resize(masks_.size() + kLanes);  // the last are read in whole vectors
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
        if (!met || masks_[lane] == 0) continue;
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

// A row's sums, and as many more as the last vector reads.
std::int64_t Narrow::line_elements() const { return (lanes_ / kLanes + 2) * kLanes; }

std::int64_t Narrow::scratch_elements() const { return lanes_ * kNarrowRows + line_elements(); }

void Narrow::execute(std::int64_t item, float* arena, float* scratch) const {
  const std::int64_t first = layer_.panel_starts[layer_.part_starts[item]];
  const std::int64_t last = layer_.panel_starts[layer_.part_starts[item + 1]];
  float* line = scratch + lanes_ * kNarrowRows;
  for (std::int64_t group = first; group < last; ++group) {
    std::fill(scratch, scratch + scratch_elements(), 0.0f);
    accumulate(group, arena, scratch);
    finish(group, scratch, line, arena);
  }
}

// Adds the products of a group to `sums`, [lane][kNarrowRows].
void Narrow::accumulate(std::int64_t group, const float* arena, float* sums) const {
  const std::int64_t taps = layer_.tap_starts.size / layer_.offset_starts.size;
  const std::int32_t* starts = layer_.tap_starts.data + group * taps;
  const std::int32_t* offsets = layer_.offsets.data + layer_.offset_starts[group];
  const float* weights = layer_.weights.data + layer_.weight_starts[group];
  const std::int64_t rows = layer_.row_starts[group + 1] - layer_.row_starts[group];
  const int vectors = rows > kLanes ? 2 : 1;
  for (const Segment& segment : segments_) {
    const auto lanes = static_cast<std::int64_t>(segment.lanes.size());
    if (lanes == 0) continue;
    const std::int64_t passes = (lanes - 1) / lanes_at_once(vectors) + 1;
    const std::int64_t end = starts[segment.last], step = passes > 1 ? kChunk : end;
    for (std::int64_t first = starts[segment.first]; first < end; first += step) {
      const std::int64_t count = std::min(step, end - first);
      const float* begin = weights + first * rows;
      Columns columns{arena + layer_.x.offset, offsets + first, begin, count, rows,
                      begin + kAhead,          rows / passes};
      for (std::int64_t pass = 0; pass < passes; ++pass) {
        const std::int64_t lane = pass * lanes / passes;
        const std::int64_t at = (pass + 1) * lanes / passes - lane - 1;
        const Accumulate kernel = rows == 1      ? kKernels<float, 1>[at]
                                  : vectors == 1 ? kKernels<Vector, 1>[at]
                                                 : kKernels<Vector, 2>[at];
        kernel(columns, segment.inputs.data() + lane, segment.lanes.data() + lane, sums);
        columns.next += count * columns.per_next;
      }
    }
  }
}

// Writes a group's rows: its sums begin with the bias and the skip branch, which the rows may be
// written over, or with what the rows hold.
void Narrow::finish(std::int64_t group, const float* sums, float* line, float* arena) const {
  const std::int64_t first = layer_.row_starts[group];
  const std::int64_t rows = layer_.row_starts[group + 1] - first;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t lane = 0; lane < lanes_; ++lane) line[lane] = sums[lane * kNarrowRows + r];
    for (const Span& span : spans_) {
      write(span, layer_.rows[first + r], layer_.flags[group], line + span.first, arena);
    }
  }
}

void Narrow::write(const Span& span, std::int64_t row, std::int32_t flags, const float* sums,
                   float* arena) const {
  const bool begins = flags & kFirst, ends = flags & kLast;
  const float bias = begins && layer_.bias.size ? layer_.bias[row] : 0.0f;
  const Planes& held = begins ? layer_.skip : layer_.y;
  const float* from = arena + held.offset + row * held.plane + span.output;
  float* y = arena + layer_.y.offset + row * layer_.y.plane + span.output;
  const std::int32_t* masks = masks_.data() + span.first;
  const std::int64_t lanes = span.last - span.first;
  for (std::int64_t lane = 0; lane < lanes; lane += kLanes) {
    Vector v = load(sums + lane) + bias;
    if (held.planes) v += load(from + lane);
    if (ends) {
      v = activated(layer_.activation, v) * layer_.scale;
      v = reinterpret_cast<Vector>(reinterpret_cast<IntVector>(v) & load(masks + lane));
      if (span.combine == Combine::kMax) v = maximum(load(y + lane), v);
      if (span.combine == Combine::kAdd) v += load(y + lane);
    }
    store(y + lane, v, std::min<std::int64_t>(lanes - lane, kLanes));
  }
}

}  // namespace masktools
