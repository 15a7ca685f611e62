#include "kernels/grouped/kernel.h"

#include <array>
#include <utility>

#include "simd/repeat.h"

namespace masktools {
namespace {

// Groups of fewer rows read their columns faster than prefetching them would.
constexpr int kPrefetchedRows = 3;

// The sums of a kernel: kRows rows over kWidth vectors.
template <int kRows, int kWidth>
struct Sums {
  Vector of[kRows][kWidth];

  // f(row, vector) for each sum.
  template <class F>
  MASKTOOLS_INLINE static void each(const F& f) {
    repeat<kRows>(
        [&](int r) MASKTOOLS_INLINE { repeat<kWidth>([&](int j) MASKTOOLS_INLINE { f(r, j); }); });
  }
};

// Sums kept for each of a kernel's, over columns in turn, so that enough multiplications are under
// way to hide their latency.
constexpr int splits(int rows, int width) {
  return rows * width >= 8 ? 1 : rows * width >= 4 ? 2 : 4;
}

// sums[r][j] += weights[r] * at[j], vectors that lie `step` apart.
template <int kRows, int kWidth>
MASKTOOLS_INLINE inline void add_column(Sums<kRows, kWidth>& sums, const float* at,
                                        std::int64_t step, const float* weights) {
  Vector column[kWidth];
  repeat<kWidth>([&](int j) MASKTOOLS_INLINE { column[j] = load(at + j * step); });
  repeat<kRows>([&](int r) MASKTOOLS_INLINE {
    const Vector w = broadcast(weights[r]);
    repeat<kWidth>([&](int j) MASKTOOLS_INLINE { sums.of[r][j] += w * column[j]; });
  });
}

// Adds columns [first, last) of a group.
template <int kRows, int kWidth>
MASKTOOLS_INLINE inline void add_columns(Sums<kRows, kWidth>& sums, const float* x,
                                         std::int64_t step, const Group& group, std::int64_t first,
                                         std::int64_t last, std::int64_t ahead) {
  constexpr int kSplit = splits(kRows, kWidth);
  const std::int32_t* offsets = group.offsets + first;
  const std::int32_t* const end = group.offsets + last;
  const float* weights = group.weights + first * kRows;
  if constexpr (kSplit > 1) {
    Sums<kRows, kWidth> other[kSplit - 1] = {};
    for (; end - offsets >= kSplit; offsets += kSplit, weights += kSplit * kRows) {
      add_column(sums, x + offsets[0], step, weights);
      repeat<kSplit - 1>([&](int s) MASKTOOLS_INLINE {
        add_column(other[s], x + offsets[s + 1], step, weights + (s + 1) * kRows);
      });
    }
    repeat<kSplit - 1>([&](int s) MASKTOOLS_INLINE {
      sums.each([&](int r, int j) MASKTOOLS_INLINE { sums.of[r][j] += other[s].of[r][j]; });
    });
  }
  for (; offsets < end; ++offsets, weights += kRows) {
    if constexpr (kRows >= kPrefetchedRows) {
      const float* next = x + offsets[ahead];
      repeat<kWidth>([&](int j) MASKTOOLS_INLINE { __builtin_prefetch(next + j * step); });
    }
    add_column(sums, x + *offsets, step, weights);
  }
}

// Zeros where the mask is 0, the vector where it is -1.
inline Vector masked(Vector v, const std::int32_t* mask) {
  return reinterpret_cast<Vector>(reinterpret_cast<IntVector>(v) & load(mask));
}

// Writes finished sums of a kernel, [row][vector]: through the mask, and joined with what is there.
template <bool kMasked, Combine kCombine>
void write(const Tile& tile, const Group& group, int rows, int width, const float* sums) {
  for (int r = 0; r < rows; ++r) {
    float* to = tile.y + group.rows[r] * tile.y_plane;
    for (int j = 0; j < width; ++j, sums += kLanes, to += tile.y_step) {
      const std::int64_t lane = std::int64_t{j} * kLanes, lanes = tile.lanes - lane;
      Vector v = load(sums);
      if (kMasked) v = masked(v, tile.mask + lane);
      if (kCombine == Combine::kMax) v = maximum(v, load(to));
      if (kCombine == Combine::kAdd) v += load(to);
      if (lanes >= kLanes) {
        store(to, v);
      } else {
        store(to, v, lanes);
      }
    }
  }
}

template <bool kMasked>
void write(const Tile& tile, const Group& group, int rows, int width, const float* sums) {
  switch (tile.combine) {
    case Combine::kStore:
      return write<kMasked, Combine::kStore>(tile, group, rows, width, sums);
    case Combine::kMax:
      return write<kMasked, Combine::kMax>(tile, group, rows, width, sums);
    case Combine::kAdd:
      return write<kMasked, Combine::kAdd>(tile, group, rows, width, sums);
  }
}

// Finishes sums that are not simply bounded and stored: [row][vector] in `sums`.
__attribute__((noinline)) void finish(const Call& call, const Tile& tile, const Group& group,
                                      int rows, int width, float* sums) {
  const std::int64_t lanes = std::int64_t{rows} * width * kLanes;
  if (!call.bounded) {
    activate(call.activation, sums, lanes);
  } else {
    const Vector low = broadcast(call.bounds.low), high = broadcast(call.bounds.high);
    for (std::int64_t i = 0; i < lanes; i += kLanes)
      store(sums + i, clamp(load(sums + i), low, high));
  }
  if (const float scale = call.scale; scale != 1.0f) {
    for (std::int64_t i = 0; i < lanes; i += kLanes) store(sums + i, load(sums + i) * scale);
  }
  return tile.mask ? write<true>(tile, group, rows, width, sums)
                   : write<false>(tile, group, rows, width, sums);
}

// Fetches the lines that a group will write: it has its products for that to come true.
template <int kRows, int kWidth>
MASKTOOLS_INLINE inline void prefetch_output(const Tile& tile, const Group& group, bool apart) {
  const bool last = group.flags & kLast;
  const std::int64_t step = apart ? (last ? tile.y_step : tile.partial_step) : kLanes;
  float* to = last ? tile.y : tile.partial;
  const std::int64_t plane = last ? tile.y_plane : tile.partial_plane;
  repeat<kRows>([&](int r) MASKTOOLS_INLINE {
    float* row = to + group.rows[r] * plane;
    repeat<kWidth>([&](int j) MASKTOOLS_INLINE { __builtin_prefetch(row + j * step, 1); });
  });
}

// The sums that a group begins with: the bias and the skip branch, which the output may be written
// over, or what the groups before it left.
template <int kRows, int kWidth>
MASKTOOLS_INLINE inline void begin(Sums<kRows, kWidth>& sums, const Tile& tile, const Group& group,
                                   bool apart) {
  const std::int64_t y_step = apart ? tile.y_step : kLanes;
  const std::int64_t partial_step = apart ? tile.partial_step : kLanes;
  repeat<kRows>([&](int r) MASKTOOLS_INLINE {
    if (group.flags & kFirst) {
      const Vector bias = broadcast(tile.bias ? tile.bias[group.rows[r]] : 0.0f);
      repeat<kWidth>([&](int j) MASKTOOLS_INLINE { sums.of[r][j] = bias; });
      if (!tile.skip) return;
      const float* skip = tile.skip + group.rows[r] * tile.skip_plane;
      repeat<kWidth>([&](int j) MASKTOOLS_INLINE { sums.of[r][j] += load(skip + j * y_step); });
    } else {
      const float* from = tile.partial + group.rows[r] * tile.partial_plane;
      repeat<kWidth>([&](int j)
                         MASKTOOLS_INLINE { sums.of[r][j] = load(from + j * partial_step); });
    }
  });
}

// Writes a group's sums: as they are where more groups follow, else through the epilogue.
template <int kRows, int kWidth>
MASKTOOLS_INLINE inline void end(Sums<kRows, kWidth>& sums, const Call& call, const Tile& tile,
                                 const Group& group, bool apart) {
  const bool last = group.flags & kLast;
  if (last && (!call.bounded || tile.combine != Combine::kStore || call.scale != 1.0f)) {
    float made[kRows * kWidth * kLanes];
    sums.each([&](int r, int j)
                  MASKTOOLS_INLINE { store(made + (r * kWidth + j) * kLanes, sums.of[r][j]); });
    finish(call, tile, group, kRows, kWidth, made);
    return;
  }
  float* to = last ? tile.y : tile.partial;
  const std::int64_t plane = last ? tile.y_plane : tile.partial_plane;
  const std::int64_t step = apart ? (last ? tile.y_step : tile.partial_step) : kLanes;
  const std::int64_t tail = tile.lanes - (kWidth - 1) * kLanes;
  const Vector low = broadcast(call.bounds.low), high = broadcast(call.bounds.high);
  repeat<kRows>([&](int r) MASKTOOLS_INLINE {
    float* row = to + group.rows[r] * plane;
    repeat<kWidth>([&](int j) MASKTOOLS_INLINE {
      Vector v = last ? clamp(sums.of[r][j], low, high) : sums.of[r][j];
      if (last && tile.mask) v = masked(v, tile.mask + j * kLanes);
      if (j + 1 < kWidth || tail == kLanes) {
        store(row + j * step, v);
      } else {
        store(row + j * step, v, tail);
      }
    });
  });
}

// Groups of kRows rows over kWidth vectors, the last of which may be a part where none lie apart.
template <int kRows, int kWidth, bool kApart>
void kernel(const Call& call, const Tile& tile, const Group* first, const Group* last) {
  const std::int64_t step = kApart ? tile.x_step : kLanes;
  prefetch_output<kRows, kWidth>(tile, *first, kApart);
  for (const Group* group = first; group != last; ++group) {
    if (group + 1 != last) prefetch_output<kRows, kWidth>(tile, group[1], kApart);
    Sums<kRows, kWidth> sums;
    begin(sums, tile, *group, kApart);
    for (std::int64_t i = 0; i < tile.ranges; ++i) {
      add_columns(sums, tile.x, step, *group, group->tap_starts[tile.taps[2 * i]],
                  group->tap_starts[tile.taps[2 * i + 1]], call.prefetch);
    }
    end(sums, call, tile, *group, kApart);
  }
}

using Widths = std::array<Kernel, kMaxVectors>;

// Kernels of kRows rows, by their width less one; null where registers do not hold them.
template <int kRows, bool kApart, int... kIndex>
constexpr Widths widths(std::integer_sequence<int, kIndex...>) {
  return {kernel<kRows, kIndex + 1, kApart>...};
}

template <bool kApart, int... kIndex>
constexpr std::array<Widths, sizeof...(kIndex)> heights(std::integer_sequence<int, kIndex...>) {
  return {widths<kIndex + 1, kApart>(
      std::make_integer_sequence<int,
                                 kApart ? vectors_apart(kIndex + 1) : vectors(kIndex + 1)>())...};
}

constexpr auto kKernels = heights<false>(std::make_integer_sequence<int, kMaxRows>());
constexpr auto kKernelsApart = heights<true>(std::make_integer_sequence<int, kMaxRows>());

}  // namespace

Kernel kernel_of(std::int64_t rows, std::int64_t width, bool contiguous) {
  return (contiguous ? kKernels : kKernelsApart)[rows - 1][width - 1];
}

}  // namespace masktools
