// Products of packed weights and gathered columns in bfloat16: what is to be multiplied, and the
// kernels that do it. Only x86-64 has them; each says by itself whether it was built and can run.
//
// A column is one (tap, channel) of up to 64 lanes, anywhere in memory. Both kernels multiply two
// columns at a time, so columns are gathered in pairs, lane by lane: that is the panel. Weights lie
// in tiles of 16 rows and 32 columns, rows and columns that a group lacks being zeros.
#pragma once

#include <cstdint>
#include <vector>

#include "simd/bfloat16.h"

namespace masktools {

constexpr int kTileRows = 16;
constexpr int kTileColumns = 32;
constexpr int kTileLanes = 16;
constexpr int kLaneTiles = 4;
constexpr int kProductLanes = kTileLanes * kLaneTiles;

// Elements of a tile of weights, and of the panel of one tile of columns and one of lanes.
constexpr std::int64_t kTileElements = kTileRows * kTileColumns;

// Tiles of columns that are gathered, then multiplied by all rows, before the next: with 64 lanes
// they take 16 KB of the first-level cache.
constexpr std::int64_t kPanelTiles = 4;
constexpr std::int64_t kPanelElements = kPanelTiles * kLaneTiles * kTileElements;

// Columns [first, last) of a tile of 32; the others lie in the padding and count as zeros.
struct ColumnTile {
  std::int32_t tile, first, last;
};

// The rows of one group times up to 64 lanes.
struct Product {
  const Bfloat16* x;            // the first lane; kTileLanes * lane_tiles of a column are read
  const std::int32_t* offsets;  // of each column from x, in elements
  const ColumnTile* tiles;      // [count], at least one
  std::int64_t count;
  const Bfloat16* weights;    // [ceil(rows / 16)][column_tiles][16][32], 64-byte aligned
  std::int64_t column_tiles;  // of the group
  std::int64_t rows;
  int lane_tiles;   // 1 to kLaneTiles
  Bfloat16* panel;  // [kPanelElements] of scratch, 64-byte aligned
  float* sums;      // [rows, in whole tiles][kProductLanes], 64-byte aligned; is written
};

// A way to multiply. `begin` and `end` enclose any number of products of one thread.
struct ProductKernel {
  const char* name;
  void (*begin)();
  void (*multiply)(const Product&);
  void (*end)();
};

// Each returns null where this build, processor or operating system lacks the instructions.
const ProductKernel* amx_kernel();
const ProductKernel* avx512_bf16_kernel();

// The kernels that can run here, the fastest first.
inline std::vector<const ProductKernel*> product_kernels() {
  std::vector<const ProductKernel*> kernels;
  for (const ProductKernel* kernel : {amx_kernel(), avx512_bf16_kernel()}) {
    if (kernel) kernels.push_back(kernel);
  }
  return kernels;
}

}  // namespace masktools
