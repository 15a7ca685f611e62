// Products of bfloat16 by AVX512-BF16: two columns of 16 lanes an instruction. It counts denormal
// inputs and results as zero.
#include "kernels/bfloat16/product.h"

#if defined(__x86_64__) && defined(__AVX512BW__) && \
    (defined(__clang__) ? __clang_major__ >= 9 : __GNUC__ >= 10)
#define MASKTOOLS_AVX512_BF16 1
#endif

#ifdef MASKTOOLS_AVX512_BF16

#include <cpuid.h>

#include <algorithm>
#include <cstring>

#include "kernels/bfloat16/panel.h"

#define MT_TARGET __attribute__((target("avx512bf16")))

namespace masktools {
namespace {

// Rows whose sums are kept in registers: with 64 lanes, 16 of them.
constexpr int kRows = 4;

// Adds the products of kRows rows and `count` tiles of columns. `weights` begins at the first row.
template <int kLanes>
MT_TARGET inline void add_products(const ColumnTile* tiles, std::int64_t count,
                                   const Bfloat16* weights, const Bfloat16* panel, bool first,
                                   float* sums) {
  __m512 sum[kRows][kLanes];
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kLanes; ++j) {
      sum[r][j] =
          first ? _mm512_setzero_ps() : _mm512_load_ps(sums + r * kProductLanes + j * kTileLanes);
    }
  }
  for (std::int64_t k = 0; k < count; ++k) {
    const Bfloat16* tile = weights + tiles[k].tile * kTileElements;
    const Bfloat16* columns = panel + k * kLanes * kTileElements;
    for (int p = 0; p < kTileRows; ++p) {
      __m512i pairs[kLanes];
      for (int j = 0; j < kLanes; ++j) {
        pairs[j] = _mm512_load_si512(columns + j * kTileElements + p * kTileColumns);
      }
      for (int r = 0; r < kRows; ++r) {
        std::int32_t pair;
        std::memcpy(&pair, tile + r * kTileColumns + 2 * p, sizeof(pair));
        const __m512i weight = _mm512_set1_epi32(pair);
        for (int j = 0; j < kLanes; ++j) {
          sum[r][j] = _mm512_dpbf16_ps(sum[r][j], reinterpret_cast<__m512bh>(weight),
                                       reinterpret_cast<__m512bh>(pairs[j]));
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kLanes; ++j) {
      _mm512_store_ps(sums + r * kProductLanes + j * kTileLanes, sum[r][j]);
    }
  }
}

template <int kLanes>
MT_TARGET void multiply_lanes(const Product& product) {
  const __m512i order = pair_order();
  for (std::int64_t first = 0; first < product.count; first += kPanelTiles) {
    const ColumnTile* tiles = product.tiles + first;
    const std::int64_t count = std::min(kPanelTiles, product.count - first);
    for (std::int64_t k = 0; k < count; ++k) {
      gather<kLanes>(product, tiles[k], order, product.panel + k * kLanes * kTileElements);
    }
    for (std::int64_t r = 0; r < product.rows; r += kRows) {
      const std::int64_t tile = r / kTileRows * product.column_tiles * kTileElements;
      add_products<kLanes>(tiles, count, product.weights + tile + r % kTileRows * kTileColumns,
                           product.panel, first == 0, product.sums + r * kProductLanes);
    }
  }
}

void multiply(const Product& product) {
  with_lane_tiles(product, [&](auto lanes) { multiply_lanes<lanes>(product); });
}

void nothing() {}

// The variant for AVX-512 is not loaded where the operating system does not save its registers.
bool present() {
  unsigned a, b, c, d;
  constexpr unsigned kBf16 = 1u << 5;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & kBf16) != 0;
}

}  // namespace

const ProductKernel* avx512_bf16_kernel() {
  static constexpr ProductKernel kKernel = {"avx512_bf16", nothing, multiply, nothing};
  static const bool kPresent = present();
  return kPresent ? &kKernel : nullptr;
}

}  // namespace masktools

#else

namespace masktools {

const ProductKernel* avx512_bf16_kernel() { return nullptr; }

}  // namespace masktools

#endif
