// Where numbers lie, and what a block of threads is given to do.
//
// A value (N, C, H, W) lies as [C][H + halo][W + halo][lanes], the batch innermost, so that the
// samples of a pixel are one run whatever the tap and the stride. A position is a pixel of the
// output and a lane: j = (y * width + x) * lanes + lane.
#pragma once

#include "activation.cuh"

namespace masktools {

// Strides of a value, in elements: to the next channel, to the next pixel down and across. For the
// input, pixels are those that neighbouring outputs start from: the convolution's stride is in.
struct Place {
  int plane, down, across;
};

// A layer, but for its weights; 17 words, passed by value.
struct Geometry {
  int positions;  // pixels of the output times lanes
  int lanes;
  int width;            // pixels of the output in a row
  int block_tiles;      // tiles for the matrix product
  int remainder_tiles;  // tiles for the remainder kernel, after them in the table
  Place x, y, skip;
  Activation activation;
};

// Up to `rows` rows that share `depth` columns; an entry of the block table.
struct Tile {
  int weights;  // first element in the table of weights
  int columns;  // first entry in the table of columns
  int depth;    // columns, padded as the kernel wants them
  int slots;    // first entry in the table of targets
  int rows;
};

// What a target of a row says: an output row (>= 0), nothing, or a partial sum's slot.
constexpr int NOWHERE = -1;
__device__ __forceinline__ int partial_slot(int target) { return -2 - target; }

// Returns where a position lies within a plane of `place`.
__device__ __forceinline__ int locate(const Place& place, const Geometry& geometry, int position) {
  const int pixel = position / geometry.lanes;
  const int y = pixel / geometry.width;
  return y * place.down + (pixel - y * geometry.width) * place.across +
         (position - pixel * geometry.lanes);
}

__device__ __forceinline__ int ceil_divide(int a, int b) { return (a + b - 1) / b; }

}  // namespace masktools
