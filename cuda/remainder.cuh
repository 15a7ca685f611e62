// A tile of few rows: the r mod 32 of a block, rows of their own, depthwise convolutions.
//
// Too few rows share a number of the input for shared memory to pay for itself. The weights of some
// columns are kept there instead, in float32, and the sums in registers; the input streams past.
// Where there are hardly any positions to share among the threads, a warp takes one and its lanes
// share the columns.
#pragma once

#include "epilogue.cuh"

namespace masktools {

// Columns whose weights are in shared memory at once, and the bytes that they and the columns take.
template <int ROWS>
struct Cached {
  static constexpr int DEPTH = 4096 / ROWS < 512 ? 4096 / ROWS : 512;
  static constexpr int BYTES = DEPTH * ROWS * 4 + DEPTH * 4;
};

// Every thread of the block calls it. weights: the tile's, from `begin` on. Ends with a barrier.
template <class C, int ROWS>
__device__ __forceinline__ void cache(float* cached_weights, int* cached_columns,
                                      const float* weights, const int* columns, int begin,
                                      int count) {
  constexpr int WIDE = ROWS % 4 == 0 ? 4 : 1;
  __syncthreads();  // Everyone is done with what was there.
  for (int i = threadIdx.x; i < count * ROWS / WIDE; i += C::THREADS) {
    vector<float, WIDE>(cached_weights + i * WIDE) =
        read<float, WIDE>(weights + begin * ROWS + i * WIDE);
  }
  for (int i = threadIdx.x; i < count; i += C::THREADS) {
    cached_columns[i] = __ldg(columns + begin + i);
  }
  __syncthreads();
}

// Sums ROWS x COUNT numbers a thread, for THREADS * COUNT positions from `first` on.
template <class C, int ROWS, int COUNT>
__device__ __forceinline__ void stream(const typename C::Number* x, const float* weights,
                                       const int* columns, const Tile& tile, const int* targets,
                                       const Output<typename C::Number>& output,
                                       const Geometry& geometry, int first) {
  using Number = typename C::Number;
  constexpr bool ALIGNED = C::ALIGNED || COUNT == 1;
  constexpr int PLACES = ALIGNED ? 1 : COUNT;  // runs of memory that a thread reads
  float* cached_weights = reinterpret_cast<float*>(dynamic_shared());
  int* cached_columns = reinterpret_cast<int*>(cached_weights + Cached<ROWS>::DEPTH * ROWS);

  const int position = first + static_cast<int>(threadIdx.x) * COUNT;
  const Number* from[PLACES];
#pragma unroll
  for (int p = 0; p < PLACES; p++) {
    const int at = position + p;
    from[p] = x + locate(geometry.x, geometry, at < geometry.positions ? at : 0);
  }
  Vector<float, COUNT> sums[ROWS] = {};
  for (int begin = 0; begin < tile.depth; begin += Cached<ROWS>::DEPTH) {
    const int left = tile.depth - begin;
    const int count = left < Cached<ROWS>::DEPTH ? left : Cached<ROWS>::DEPTH;
    cache<C, ROWS>(cached_weights, cached_columns, weights, columns, begin, count);
#pragma unroll 4
    for (int column = 0; column < count; column++) {
      float input[COUNT];
#pragma unroll
      for (int p = 0; p < PLACES; p++) {
        constexpr int RUN = COUNT / PLACES;
        const Vector<Number, RUN> run = read<Number, RUN>(from[p] + cached_columns[column]);
#pragma unroll
        for (int i = 0; i < RUN; i++) input[p * RUN + i] = to_float(run.at[i]);
      }
      constexpr int WIDE = ROWS % 4 == 0 ? 4 : ROWS;
#pragma unroll
      for (int row = 0; row < ROWS; row += WIDE) {
        const Vector<float, WIDE> weight =
            vector<float, WIDE>(cached_weights + column * ROWS + row);
#pragma unroll
        for (int r = 0; r < WIDE; r++) {
#pragma unroll
          for (int i = 0; i < COUNT; i++) {
            float& sum = sums[row + r].at[i];
            sum = fmaf(weight.at[r], input[i], sum);
          }
        }
      }
    }
  }
  const Span<COUNT, ALIGNED> span(geometry, position);
#pragma unroll
  for (int row = 0; row < ROWS; row++) {
    send<C::ACTIVATION>(output, geometry, targets[tile.slots + row], span, sums[row]);
  }
}

// Sums ROWS numbers a warp, at the warp's own position; lane l takes columns l, l + 32, ...
template <class C, int ROWS>
__device__ __forceinline__ void share_columns(const typename C::Number* x, const float* weights,
                                              const int* columns, const Tile& tile,
                                              const int* targets,
                                              const Output<typename C::Number>& output,
                                              const Geometry& geometry, int first) {
  using Number = typename C::Number;
  const int lane = threadIdx.x % 32;
  const int position = first + static_cast<int>(threadIdx.x) / 32;
  if (position >= geometry.positions) return;  // The warp as a whole: nothing waits for it.
  x += locate(geometry.x, geometry, position);
  float sums[ROWS] = {};
#pragma unroll 4
  for (int column = lane; column < tile.depth; column += 32) {
    const float input = to_float(read<Number, 1>(x + __ldg(columns + column)).at[0]);
    constexpr int WIDE = ROWS % 4 == 0 ? 4 : ROWS;
#pragma unroll
    for (int row = 0; row < ROWS; row += WIDE) {
      const Vector<float, WIDE> weight = read<float, WIDE>(weights + column * ROWS + row);
#pragma unroll
      for (int r = 0; r < WIDE; r++) sums[row + r] = fmaf(weight.at[r], input, sums[row + r]);
    }
  }
#pragma unroll
  for (int row = 0; row < ROWS; row++) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
      sums[row] += __shfl_xor_sync(0xffffffffu, sums[row], apart);
    }
  }
  const Span<1, true> span(geometry, position);
#pragma unroll
  for (int row = 0; row < ROWS; row++) {
    if (lane == row) {
      send<C::ACTIVATION>(output, geometry, targets[tile.slots + row], span,
                          Vector<float, 1>{sums[row]});
    }
  }
}

// Computes a tile of at most ROWS rows for REMAINDER_SPAN positions from `first` on.
template <class C, int ROWS>
__device__ __forceinline__ void remainder(const typename C::Number* x, const float* weights,
                                          const int* columns, const Tile& tile, const int* targets,
                                          const Output<typename C::Number>& output,
                                          const Geometry& geometry, int first) {
  weights += tile.weights;
  columns += tile.columns;
  if constexpr (C::REMAINDER_POSITIONS == 0) {
    share_columns<C, ROWS>(x, weights, columns, tile, targets, output, geometry, first);
  } else {
    // At most 32 sums a thread; what is left of the span is done in further rounds.
    constexpr int MOST = ROWS <= 8 ? 4 : ROWS <= 16 ? 2 : 1;
    constexpr int COUNT = C::REMAINDER_POSITIONS < MOST ? C::REMAINDER_POSITIONS : MOST;
    for (int round = 0; round < C::REMAINDER_POSITIONS / COUNT; round++) {
      const int from = first + round * C::THREADS * COUNT;
      if (from < geometry.positions) {
        stream<C, ROWS, COUNT>(x, weights, columns, tile, targets, output, geometry, from);
      }
    }
  }
}

}  // namespace masktools
