#include "kernels/nonzeros/row_kernel.h"

#include <array>
#include <utility>

#include "simd/repeat.h"

namespace masktools {
namespace {

// Sums kept for each of a kernel's, over nonzeros in turn, so that enough multiplications are under
// way to hide their latency.
constexpr int splits(int vectors) {
  return vectors >= 8 ? 1 : vectors >= 4 ? 2 : vectors >= 2 ? 4 : 8;
}

// Small tiles take less time than memory does to bring the next nonzeros: they are fetched so many
// ahead.
constexpr std::int64_t kAhead = 512;

template <int kRows, int kWidth>
void kernel(const Nonzeros& nonzeros, std::int64_t rows, const float* window, std::int64_t pitch,
            bool add, float* sums) {
  constexpr int kVectors = kRows * kWidth, kSplit = splits(kVectors);
  const float* weights = nonzeros.weights;
  const std::uint16_t* offsets = nonzeros.offsets;
  for (std::int64_t row = 0; row < rows; ++row, sums += kVectors * kLanes) {
    Vector sum[kSplit][kVectors] = {};
    if (add) repeat<kVectors>([&](int v) MASKTOOLS_INLINE { sum[0][v] = load(sums + v * kLanes); });
    repeat<kVectors>(
        [&](int v) MASKTOOLS_INLINE { __builtin_prefetch(sums + (kVectors + v) * kLanes, 1); });
    const auto add_one = [&](std::int64_t k, Vector* to) MASKTOOLS_INLINE {
      const Vector weight = broadcast(weights[k]);
      const float* in = window + offsets[k];
      repeat<kRows>([&](int i) MASKTOOLS_INLINE {
        repeat<kWidth>([&](int j) MASKTOOLS_INLINE {
          to[i * kWidth + j] += weight * load(in + i * pitch + j * kLanes);
        });
      });
    };
    std::int64_t k = nonzeros.starts[row];
    const std::int64_t end = nonzeros.starts[row + 1];
    for (; k + kSplit <= end; k += kSplit) {
      if constexpr (kSplit > 1) {
        __builtin_prefetch(weights + k + kAhead);
        __builtin_prefetch(offsets + k + kAhead);
      }
      repeat<kSplit>([&](int s) MASKTOOLS_INLINE { add_one(k + s, sum[s]); });
    }
    if constexpr (kSplit > 1) {
      for (; k < end; ++k) add_one(k, sum[0]);
      repeat<kSplit - 1>([&](int s) MASKTOOLS_INLINE {
        repeat<kVectors>([&](int v) MASKTOOLS_INLINE { sum[0][v] += sum[s + 1][v]; });
      });
    }
    repeat<kVectors>([&](int v) MASKTOOLS_INLINE { store(sums + v * kLanes, sum[0][v]); });
  }
}

// By rows and vectors, each less one; null where registers do not hold the sums.
using Table = std::array<std::array<RowKernel, kRowVectors>, kRowVectors>;

template <int kRows, int... kIndex>
constexpr void fill(Table* table, std::integer_sequence<int, kIndex...>) {
  (((*table)[kRows - 1][kIndex] = kernel<kRows, kIndex + 1>), ...);
}

template <int... kIndex>
constexpr Table table(std::integer_sequence<int, kIndex...>) {
  Table made{};
  (fill<kIndex + 1>(&made, std::make_integer_sequence<int, kRowVectors / (kIndex + 1)>()), ...);
  return made;
}

constexpr Table kKernels = table(std::make_integer_sequence<int, kRowVectors>());

}  // namespace

RowKernel row_kernel(std::int64_t rows, std::int64_t vectors) {
  return kKernels[rows - 1][vectors - 1];
}

}  // namespace masktools
