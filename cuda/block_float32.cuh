// A tile of 32, 64 or 96 rows as a matrix product on the ordinary units, in float32.
//
// The weights and the gathered input of DEPTH columns lie in shared memory. A warp makes
// WARP_ROWS x WARP_POSITIONS sums, each thread a quarter of the rows by an eighth of the positions
// in runs of four, so that it reads its operands 16 bytes at a time. Lanes are dealt out such that
// each half of a warp reads no more than 128 different bytes of either operand at once: two cycles
// of shared memory a read.
#pragma once

#include "epilogue.cuh"
#include "feed.cuh"

namespace masktools {

template <class C>
__device__ __forceinline__ void block_float32(const float* x, const float* weights,
                                              const int* columns, const Tile& tile,
                                              const int* targets, const Output<float>& output,
                                              const Geometry& geometry, int first) {
  constexpr int DOWN = C::WARP_ROWS / 16, ACROSS = C::WARP_POSITIONS / 32;  // runs of a thread
  constexpr int WARPS_ACROSS = C::POSITIONS / C::WARP_POSITIONS;
  static_assert(C::WARP_ROWS % 16 == 0 && C::WARP_POSITIONS % 32 == 0, "runs must fill the warp");
  static_assert(C::ROWS % C::WARP_ROWS == 0 && C::POSITIONS % C::WARP_POSITIONS == 0,
                "warps must fill the tile");
  static_assert(C::THREADS == 32 * C::ROWS / C::WARP_ROWS * WARPS_ACROSS,
                "the tile tells the threads");

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // Run i of a thread's rows starts at row + 16 i, of its positions at position + 32 i.
  const int row = warp / WARPS_ACROSS * C::WARP_ROWS + ((lane & 1) + lane / 16 * 2) * 4;
  const int position = warp % WARPS_ACROSS * C::WARP_POSITIONS + lane / 2 % 8 * 4;

  Vector<float, 4> sums[DOWN][4][ACROSS] = {};
  Feed<C> feed(reinterpret_cast<float*>(dynamic_shared()), x, weights, columns, tile, geometry,
               first);
  feed.run([&](const float* stage) {
#pragma unroll
    for (int column = 0; column < C::DEPTH; column++) {
      Vector<float, 4> a[DOWN], b[ACROSS];
#pragma unroll
      for (int i = 0; i < DOWN; i++) {
        a[i] = vector<float, 4>(stage + column * C::ROWS + row + i * 16);
      }
#pragma unroll
      for (int j = 0; j < ACROSS; j++) {
        b[j] = vector<float, 4>(stage + Stage<C>::input(column, position + j * 32));
      }
#pragma unroll
      for (int i = 0; i < DOWN * 4; i++) {
#pragma unroll
        for (int j = 0; j < ACROSS * 4; j++) {
          float& sum = sums[i / 4][i % 4][j / 4].at[j % 4];
          sum = fmaf(a[i / 4].at[i % 4], b[j / 4].at[j % 4], sum);
        }
      }
    }
  });

#pragma unroll
  for (int j = 0; j < ACROSS; j++) {
    const Span<4, C::ALIGNED> span(geometry, first + position + j * 32);
#pragma unroll
    for (int i = 0; i < DOWN * 4; i++) {
      const int target = targets[tile.slots + row + i / 4 * 16 + i % 4];
      send<C::ACTIVATION>(output, geometry, target, span, sums[i / 4][i % 4][j]);
    }
  }
}

}  // namespace masktools
