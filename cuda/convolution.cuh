// A layer with weights, in one launch: dense blocks by a matrix product, the remainders of their
// rows, and rows of their own, by a kernel that keeps weights and sums close.
//
// The grid has a block for each tile and span of positions, in one dimension: all tiles of a span
// side by side, so that they share its input in the second level of the cache; the remainders last,
// where they fill what the matrix products leave idle.
#pragma once

#include "block_float32.cuh"
#include "block_tensor.cuh"
#include "remainder.cuh"

namespace masktools {

// C: a configuration, as runtime/cuda/kernel_source.py writes it from
// runtime/cuda/configuration.py.
//
// x                  the input, where tap (0, 0) of the first output reads channel 0
// weights            of block tiles: per chunk of DEPTH columns, DEPTH x ROWS numbers in the
//                    configuration's order; 16-byte aligned
// remainder_weights  of remainder tiles: [depth][rows], float32, each tile 16-byte aligned
// columns            elements from x to what each column reads for the first output
// tiles              block tiles, then remainder tiles
// targets            where each row of each tile goes (geometry.cuh)
// bias               (rows of the layer); skip: as y or null; partial: [slot][positions] or null
//
// x, weights, skip, y and partial are 16-byte aligned, and so is every pixel where C::ALIGNED. y
// and partial alias nothing. Sums are float32, in an order that depends on the tables alone.
template <class C>
__device__ __forceinline__ void convolution(const typename C::Number* x,
                                            const typename C::Number* weights,
                                            const float* remainder_weights, const int* columns,
                                            const Tile* tiles, const int* targets,
                                            const Output<typename C::Number>& output,
                                            const Geometry& geometry) {
  const int spans = ceil_divide(geometry.positions, C::POSITIONS);
  int block = blockIdx.x;
  if (block < geometry.block_tiles * spans) {
    const Tile tile = tiles[block % geometry.block_tiles];
    const int first = block / geometry.block_tiles * C::POSITIONS;
    if constexpr (C::KIND == FLOAT32) {
      block_float32<C>(x, weights, columns, tile, targets, output, geometry, first);
    } else {
      block_tensor<C>(x, weights, columns, tile, targets, output, geometry, first);
    }
    return;
  }
  block -= geometry.block_tiles * spans;
  const Tile tile = tiles[geometry.block_tiles + block % geometry.remainder_tiles];
  const int first = block / geometry.remainder_tiles * C::REMAINDER_SPAN;
  switch (tile.rows) {
#define MASKTOOLS_REMAINDER(ROWS)                                                              \
  case ROWS:                                                                                   \
    remainder<C, ROWS>(x, remainder_weights, columns, tile, targets, output, geometry, first); \
    break;
    MASKTOOLS_REMAINDER(1)
    MASKTOOLS_REMAINDER(4)
    MASKTOOLS_REMAINDER(8)
    MASKTOOLS_REMAINDER(16)
    MASKTOOLS_REMAINDER(24)
#undef MASKTOOLS_REMAINDER
    default:
      __trap();  // No table that the backend makes names other heights.
  }
}

}  // namespace masktools
