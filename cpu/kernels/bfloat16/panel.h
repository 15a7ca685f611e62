// Gathers columns into panels for the products of bfloat16. For files that are compiled for
// AVX-512 alone.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <type_traits>

#include "kernels/bfloat16/product.h"

namespace masktools {

// Two columns of 16 lanes become 16 pairs: a0 b0 a1 b1 ... The masks are all ones: without them,
// GCC warns of its own undefined operand.
inline __m512i interleaved(const Bfloat16* a, const Bfloat16* b, __m512i order) {
  const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(a));
  const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(b));
  const __m512i both = _mm512_maskz_inserti64x4(0xff, _mm512_castsi256_si512(low), high, 1);
  return _mm512_maskz_permutexvar_epi16(0xffffffff, order, both);
}

// The order that `interleaved` takes.
inline __m512i pair_order() {
  alignas(64) static constexpr std::uint16_t kOrder[kTileColumns] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return _mm512_load_si512(kOrder);
}

// Writes the panel of one tile of columns, [kLanes][16 pairs][16 lanes][2]. kLanes: tiles of lanes.
template <int kLanes>
inline void gather(const Product& product, const ColumnTile& tile, __m512i order, Bfloat16* panel) {
  alignas(64) static constexpr std::uint16_t kZeros[kProductLanes] = {};
  const auto* zeros = reinterpret_cast<const Bfloat16*>(kZeros);
  const Bfloat16* x = product.x;
  const std::int32_t* offsets = product.offsets + std::int64_t{tile.tile} * kTileColumns;
  const auto pair = [&](int p, const Bfloat16* a, const Bfloat16* b) {
    for (int j = 0; j < kLanes; ++j) {
      _mm512_store_si512(panel + j * kTileElements + p * kTileColumns,
                         interleaved(a + j * kTileLanes, b + j * kTileLanes, order));
    }
  };
  if (tile.first == 0 && tile.last == kTileColumns) {
    for (int p = 0; p < kTileRows; ++p) {
      pair(p, x + offsets[2 * p], x + offsets[2 * p + 1]);
    }
    return;
  }
  const auto column = [&](int i) {
    return i >= tile.first && i < tile.last ? x + offsets[i] : zeros;
  };
  for (int p = 0; p < kTileRows; ++p) pair(p, column(2 * p), column(2 * p + 1));
}

// Calls f with the tiles of lanes of a product, as a constant.
template <class F>
inline void with_lane_tiles(const Product& product, const F& f) {
  switch (product.lane_tiles) {
    case 1:
      return f(std::integral_constant<int, 1>());
    case 2:
      return f(std::integral_constant<int, 2>());
    case 3:
      return f(std::integral_constant<int, 3>());
    default:
      return f(std::integral_constant<int, 4>());
  }
}

}  // namespace masktools
