#include "kernel.h"

#include <array>
#include <utility>

#include "repeat.h"

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

// sums[r][j] += weights[r] * at[j].
template <int kRows, int kWidth>
MASKTOOLS_INLINE inline void add_column(Sums<kRows, kWidth>& sums, const float* at,
                                        const float* weights) {
  Vector column[kWidth];
  repeat<kWidth>([&](int j) MASKTOOLS_INLINE { column[j] = load(at + j * kLanes); });
  repeat<kRows>([&](int r) MASKTOOLS_INLINE {
    const Vector w = broadcast(weights[r]);
    repeat<kWidth>([&](int j) MASKTOOLS_INLINE { sums.of[r][j] += w * column[j]; });
  });
}

// Adds columns [first, last) of a group.
template <int kRows, int kWidth>
MASKTOOLS_INLINE inline void add_columns(Sums<kRows, kWidth>& sums, const float* x,
                                         const Group& group, std::int64_t first, std::int64_t last,
                                         std::int64_t ahead) {
  constexpr int kSplit = splits(kRows, kWidth);
  const std::int32_t* offsets = group.offsets + first;
  const std::int32_t* const end = group.offsets + last;
  const float* weights = group.weights + first * kRows;
  if constexpr (kSplit > 1) {
    Sums<kRows, kWidth> other[kSplit - 1] = {};
    for (; end - offsets >= kSplit; offsets += kSplit, weights += kSplit * kRows) {
      add_column(sums, x + offsets[0], weights);
      repeat<kSplit - 1>([&](int s) MASKTOOLS_INLINE {
        add_column(other[s], x + offsets[s + 1], weights + (s + 1) * kRows);
      });
    }
    repeat<kSplit - 1>([&](int s) MASKTOOLS_INLINE {
      sums.each([&](int r, int j) MASKTOOLS_INLINE { sums.of[r][j] += other[s].of[r][j]; });
    });
  }
  for (; offsets < end; ++offsets, weights += kRows) {
    if constexpr (kRows >= kPrefetchedRows) {
      const float* next = x + offsets[ahead];
      repeat<kWidth>([&](int j) MASKTOOLS_INLINE { __builtin_prefetch(next + j * kLanes); });
    }
    add_column(sums, x + *offsets, weights);
  }
}

// Finishes sums that are not simply bounded and stored: [row][vector] in `sums`.
__attribute__((noinline)) void finish(const Call& call, const Tile& tile, const Group& group,
                                      int rows, int width, const float* sums) {
  const Vector low = broadcast(call.bounds.low), high = broadcast(call.bounds.high);
  for (int r = 0; r < rows; ++r) {
    float* to = tile.y + group.rows[r] * tile.y_plane;
    for (int j = 0; j < width; ++j, sums += kLanes) {
      const std::int64_t lane = std::int64_t{j} * kLanes;
      Vector v = load(sums);
      v = call.bounded ? clamp(v, low, high) : activate(call.activation, v);
      if (call.scale != 1.0f) v *= call.scale;
      if (tile.mask)
        v = reinterpret_cast<Vector>(reinterpret_cast<IntVector>(v) & load(tile.mask + lane));
      if (tile.combine == Combine::kMax) v = maximum(v, load(to + lane));
      if (tile.combine == Combine::kAdd) v += load(to + lane);
      store(to + lane, v, std::min<std::int64_t>(tile.lanes - lane, kLanes));
    }
  }
}

// Fetches the lines that a group will write: it has its products for that to come true.
template <int kRows, int kWidth>
MASKTOOLS_INLINE inline void prefetch_output(const Tile& tile, const Group& group) {
  const bool last = group.flags & kLast;
  float* to = last ? tile.y : tile.partial;
  const std::int64_t plane = last ? tile.y_plane : tile.partial_plane;
  repeat<kRows>([&](int r) MASKTOOLS_INLINE {
    float* row = to + group.rows[r] * plane;
    repeat<kWidth>([&](int j) MASKTOOLS_INLINE { __builtin_prefetch(row + j * kLanes, 1); });
  });
}

// The sums that a group begins with: the bias and the skip branch, which the output may be written
// over, or what the groups before it left.
template <int kRows, int kWidth>
MASKTOOLS_INLINE inline void begin(Sums<kRows, kWidth>& sums, const Tile& tile,
                                   const Group& group) {
  repeat<kRows>([&](int r) MASKTOOLS_INLINE {
    if (group.flags & kFirst) {
      const Vector bias = broadcast(tile.bias ? tile.bias[group.rows[r]] : 0.0f);
      repeat<kWidth>([&](int j) MASKTOOLS_INLINE { sums.of[r][j] = bias; });
      if (!tile.skip) return;
      const float* skip = tile.skip + group.rows[r] * tile.skip_plane;
      repeat<kWidth>([&](int j) MASKTOOLS_INLINE { sums.of[r][j] += load(skip + j * kLanes); });
    } else {
      const float* from = tile.partial + group.rows[r] * tile.partial_plane;
      repeat<kWidth>([&](int j) MASKTOOLS_INLINE { sums.of[r][j] = load(from + j * kLanes); });
    }
  });
}

// Writes a group's sums: as they are where more groups follow, else through the epilogue.
template <int kRows, int kWidth>
MASKTOOLS_INLINE inline void end(Sums<kRows, kWidth>& sums, const Call& call, const Tile& tile,
                                 const Group& group) {
  const bool last = group.flags & kLast;
  if (last &&
      (!call.bounded || tile.mask || tile.combine != Combine::kStore || call.scale != 1.0f)) {
    float made[kRows * kWidth * kLanes];
    sums.each([&](int r, int j)
                  MASKTOOLS_INLINE { store(made + (r * kWidth + j) * kLanes, sums.of[r][j]); });
    finish(call, tile, group, kRows, kWidth, made);
    return;
  }
  float* to = last ? tile.y : tile.partial;
  const std::int64_t plane = last ? tile.y_plane : tile.partial_plane;
  const std::int64_t tail = tile.lanes - (kWidth - 1) * kLanes;
  const Vector low = broadcast(call.bounds.low), high = broadcast(call.bounds.high);
  repeat<kRows>([&](int r) MASKTOOLS_INLINE {
    float* row = to + group.rows[r] * plane;
    repeat<kWidth>([&](int j) MASKTOOLS_INLINE {
      const Vector v = last ? clamp(sums.of[r][j], low, high) : sums.of[r][j];
      if (j + 1 < kWidth || tail == kLanes) {
        store(row + j * kLanes, v);
      } else {
        store(row + j * kLanes, v, tail);
      }
    });
  });
}

// Groups of kRows rows over kWidth vectors, the last of which may be a part.
template <int kRows, int kWidth>
void kernel(const Call& call, const Tile& tile, const Group* first, const Group* last) {
  prefetch_output<kRows, kWidth>(tile, *first);
  for (const Group* group = first; group != last; ++group) {
    if (group + 1 != last) prefetch_output<kRows, kWidth>(tile, group[1]);
    Sums<kRows, kWidth> sums;
    begin(sums, tile, *group);
    for (std::int64_t i = 0; i < tile.ranges; ++i) {
      add_columns(sums, tile.x, *group, group->tap_starts[tile.taps[2 * i]],
                  group->tap_starts[tile.taps[2 * i + 1]], call.prefetch);
    }
    end(sums, call, tile, *group);
  }
}

// Kernels of kRows rows, by their width less one; null where registers do not hold them.
template <int kRows, int... kIndex>
constexpr std::array<Kernel, kMaxVectors> widths(std::integer_sequence<int, kIndex...>) {
  return {kernel<kRows, kIndex + 1>...};
}

template <int... kIndex>
constexpr std::array<std::array<Kernel, kMaxVectors>, sizeof...(kIndex)> heights(
    std::integer_sequence<int, kIndex...>) {
  return {widths<kIndex + 1>(std::make_integer_sequence<int, vectors(kIndex + 1)>())...};
}

constexpr auto kKernels = heights(std::make_integer_sequence<int, kMaxRows>());

}  // namespace

Kernel kernel_of(std::int64_t rows, std::int64_t width) { return kKernels[rows - 1][width - 1]; }

}  // namespace masktools
