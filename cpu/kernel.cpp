#include "kernel.h"

#include <array>
#include <utility>

namespace masktools {
namespace {

// Sums kept for each of a kernel's, over columns in turn, so that enough multiplications are under
// way to hide their latency.
constexpr int splits(int rows, int width) {
  return rows * width >= 8 ? 1 : rows * width >= 4 ? 2 : 4;
}

// Finishes sums that are not simply bounded and stored: [row][vector] in `sums`.
void finish(const Call& call, const Tile& tile, int rows, int width, const float* sums) {
  const Vector low = broadcast(call.bounds.low), high = broadcast(call.bounds.high);
  for (int r = 0; r < rows; ++r) {
    float* to = tile.y + tile.rows[r] * tile.y_plane;
    const float* skip = tile.skip ? tile.skip + tile.rows[r] * tile.skip_plane : nullptr;
    for (int j = 0; j < width; ++j, sums += kLanes) {
      const std::int64_t lane = std::int64_t{j} * kLanes;
      Vector v = load(sums);
      if (skip) v += load(skip + lane);
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

// sum[r][j] += weights[k][r] * x[offsets[k]][j], for columns k.
template <int kRows, int kWidth>
inline __attribute__((always_inline)) void accumulate(Vector (&sum)[kRows][kWidth], const float* x,
                                                      const std::int32_t* offsets,
                                                      const float* weights, std::int64_t columns,
                                                      std::int64_t ahead) {
  constexpr int kSplit = splits(kRows, kWidth);
  Vector other[kSplit][kRows][kWidth];  // the first stands for `sum` and is left out
  for (int s = 1; s < kSplit; ++s) {
    for (int r = 0; r < kRows; ++r) {
      for (int j = 0; j < kWidth; ++j) other[s][r][j] = Vector{};
    }
  }
  const auto column = [&](Vector(&into)[kRows][kWidth], std::int64_t k)
                          __attribute__((always_inline)) {
                            const float* at = x + offsets[k];
                            if (kRows > 2) {
                              const float* next = x + offsets[k + ahead];
                              for (int j = 0; j < kWidth; ++j)
                                __builtin_prefetch(next + j * kLanes);
                            }
                            Vector v[kWidth];
                            for (int j = 0; j < kWidth; ++j) v[j] = load(at + j * kLanes);
                            for (int r = 0; r < kRows; ++r) {
                              const Vector w = broadcast(weights[k * kRows + r]);
                              for (int j = 0; j < kWidth; ++j) into[r][j] += w * v[j];
                            }
                          };
  std::int64_t k = 0;
  for (; k + kSplit <= columns; k += kSplit) {
    column(sum, k);
    for (int s = 1; s < kSplit; ++s) column(other[s], k + s);
  }
  for (; k < columns; ++k) column(sum, k);
  for (int s = 1; s < kSplit; ++s) {
    for (int r = 0; r < kRows; ++r) {
      for (int j = 0; j < kWidth; ++j) sum[r][j] += other[s][r][j];
    }
  }
}

// One group of kRows rows over kWidth vectors, the last of which may be a part.
template <int kRows, int kWidth>
void kernel(const Call& call, const Tile& tile) {
  Vector sum[kRows][kWidth];
  for (int r = 0; r < kRows; ++r) {
    if (tile.flags & kFirst) {
      const Vector bias = broadcast(tile.bias ? tile.bias[tile.rows[r]] : 0.0f);
      for (int j = 0; j < kWidth; ++j) sum[r][j] = bias;
    } else {
      const float* from = tile.partial + tile.rows[r] * tile.partial_plane;
      for (int j = 0; j < kWidth; ++j) sum[r][j] = load(from + j * kLanes);
    }
  }
  for (std::int64_t i = 0; i < tile.ranges; ++i) {
    const std::int64_t first = tile.tap_starts[tile.taps[2 * i]];
    const std::int64_t last = tile.tap_starts[tile.taps[2 * i + 1]];
    accumulate<kRows, kWidth>(sum, tile.x, tile.offsets + first, tile.weights + first * kRows,
                              last - first, call.prefetch);
  }
  const bool last = tile.flags & kLast;
  float* to = last ? tile.y : tile.partial;
  const std::int64_t plane = last ? tile.y_plane : tile.partial_plane;
  const std::int64_t tail = tile.lanes - (kWidth - 1) * kLanes;
  if (last &&
      (!call.bounded || tile.mask || tile.combine != Combine::kStore || call.scale != 1.0f)) {
    float sums[kRows * kWidth * kLanes];
    for (int r = 0; r < kRows; ++r) {
      for (int j = 0; j < kWidth; ++j) store(sums + (r * kWidth + j) * kLanes, sum[r][j]);
    }
    finish(call, tile, kRows, kWidth, sums);
    return;
  }
  for (int r = 0; r < kRows; ++r) {
    if (last) {
      if (tile.skip) {
        const float* skip = tile.skip + tile.rows[r] * tile.skip_plane;
        for (int j = 0; j < kWidth; ++j) sum[r][j] += load(skip + j * kLanes);
      }
      const Vector low = broadcast(call.bounds.low), high = broadcast(call.bounds.high);
      for (int j = 0; j < kWidth; ++j) sum[r][j] = clamp(sum[r][j], low, high);
    }
    float* row = to + tile.rows[r] * plane;
    for (int j = 0; j < kWidth - 1; ++j) store(row + j * kLanes, sum[r][j]);
    if (tail == kLanes) {
      store(row + (kWidth - 1) * kLanes, sum[r][kWidth - 1]);
    } else {
      store(row + (kWidth - 1) * kLanes, sum[r][kWidth - 1], tail);
    }
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
