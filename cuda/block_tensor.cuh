// A tile of 32, 64 or 96 rows as a matrix product on the tensor cores, in tf32 or float16, summed
// in float32.
//
// A warp makes WARP_ROWS x WARP_POSITIONS sums in products of 16 rows x 8 positions. Weights lie in
// shared memory as the lanes of a warp hold them, so that each reads its share of a product in 16
// bytes. tf32 input is read four positions at a time: position 4 g + i of 32 is position g of
// product i, which leaves a lane with eight positions side by side to store. float16 input is read
// by ldmatrix, which transposes.
#pragma once

#include "epilogue.cuh"
#include "feed.cuh"

namespace masktools {

// What a lane of a warp reads and writes for the products of one type.
template <class C, int KIND = C::KIND>
struct Fragments;

template <class C>
struct Fragments<C, TF32> {
  static constexpr int DEPTH = 8;    // columns of a product
  static constexpr int AT_ONCE = 4;  // products that one read of the input serves, side by side

  // Reads columns [column, column + 8) of 32 positions from `position` on.
  static __device__ __forceinline__ void read_input(Word (&words)[AT_ONCE][2], const float* stage,
                                                    int column, int position) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const Vector<float, 4> four = vector<float, 4>(
          stage + Stage<C>::input(column + half * 4 + lane % 4, position + lane / 4 * 4));
#pragma unroll
      for (int i = 0; i < 4; i++) words[i][half] = round_tf32(four.at[i]);
    }
  }

  static __device__ __forceinline__ void multiply(float (&sums)[4], const Word (&a)[4],
                                                  const Word (&b)[2]) {
    multiply_tf32(sums, a, b);
  }

  // The positions that a lane holds of AT_ONCE products, the first of which starts at `first`.
  struct Spans {
    Span<4, C::ALIGNED> left, right;

    __device__ __forceinline__ Spans(const Geometry& geometry, int first)
        : left(geometry, first + threadIdx.x % 4 * 8),
          right(geometry, first + threadIdx.x % 4 * 8 + 4) {}
  };

  // Sends what a lane holds of one row: the upper (0) or the lower one (1).
  static __device__ __forceinline__ void send_row(const Output<float>& output,
                                                  const Geometry& geometry, int target,
                                                  const Spans& spans,
                                                  const float (&sums)[AT_ONCE][4], int lower) {
    Vector<float, 4> left, right;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      left.at[i] = sums[i][lower * 2];
      right.at[i] = sums[i][lower * 2 + 1];
    }
    send<C::ACTIVATION>(output, geometry, target, spans.left, left);
    send<C::ACTIVATION>(output, geometry, target, spans.right, right);
  }
};

template <class C>
struct Fragments<C, FLOAT16> {
  static constexpr int DEPTH = 16;
  static constexpr int AT_ONCE = 2;

  // Reads columns [column, column + 16) of 16 positions from `position` on.
  static __device__ __forceinline__ void read_input(Word (&words)[AT_ONCE][2], const Half* stage,
                                                    int column, int position) {
    const int lane = threadIdx.x % 32;
    Word four[4];
    read_transposed(four, stage + Stage<C>::input(column + lane % 16, position + lane / 16 * 8));
#pragma unroll
    for (int i = 0; i < 4; i++) words[i / 2][i % 2] = four[i];
  }

  static __device__ __forceinline__ void multiply(float (&sums)[4], const Word (&a)[4],
                                                  const Word (&b)[2]) {
    multiply_half(sums, a, b);
  }

  struct Spans {
    Span<2, C::ALIGNED> left, right;

    __device__ __forceinline__ Spans(const Geometry& geometry, int first)
        : left(geometry, first + threadIdx.x % 4 * 2),
          right(geometry, first + threadIdx.x % 4 * 2 + 8) {}
  };

  static __device__ __forceinline__ void send_row(const Output<Half>& output,
                                                  const Geometry& geometry, int target,
                                                  const Spans& spans,
                                                  const float (&sums)[AT_ONCE][4], int lower) {
    send<C::ACTIVATION>(output, geometry, target, spans.left,
                        Vector<float, 2>{sums[0][lower * 2], sums[0][lower * 2 + 1]});
    send<C::ACTIVATION>(output, geometry, target, spans.right,
                        Vector<float, 2>{sums[1][lower * 2], sums[1][lower * 2 + 1]});
  }
};

template <class C>
__device__ __forceinline__ void block_tensor(const typename C::Number* x,
                                             const typename C::Number* weights, const int* columns,
                                             const Tile& tile, const int* targets,
                                             const Output<typename C::Number>& output,
                                             const Geometry& geometry, int first) {
  using Number = typename C::Number;
  using Parts = Fragments<C>;
  constexpr int AT_ONCE = Parts::AT_ONCE;
  constexpr int DOWN = C::WARP_ROWS / 16, READS = C::WARP_POSITIONS / (8 * AT_ONCE);
  constexpr int WARPS_ACROSS = C::POSITIONS / C::WARP_POSITIONS;
  static_assert(C::WARP_ROWS % 16 == 0 && C::WARP_POSITIONS % (8 * AT_ONCE) == 0,
                "products must fill the warp's share");
  static_assert(C::ROWS % C::WARP_ROWS == 0 && C::POSITIONS % C::WARP_POSITIONS == 0,
                "warps must fill the tile");
  static_assert(C::THREADS == 32 * C::ROWS / C::WARP_ROWS * WARPS_ACROSS,
                "the tile tells the threads");
  static_assert(C::DEPTH % Parts::DEPTH == 0, "products must fill the chunk");

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = warp / WARPS_ACROSS * C::WARP_ROWS;
  const int position = warp % WARPS_ACROSS * C::WARP_POSITIONS;

  float sums[DOWN][READS][AT_ONCE][4] = {};
  Feed<C> feed(reinterpret_cast<Number*>(dynamic_shared()), x, weights, columns, tile, geometry,
               first);
  feed.run([&](const Number* stage) {
#pragma unroll
    for (int column = 0; column < C::DEPTH; column += Parts::DEPTH) {
      Vector<Word, 4> a[DOWN];
#pragma unroll
      for (int i = 0; i < DOWN; i++) {
        const int product = column / Parts::DEPTH * (C::ROWS / 16) + row / 16 + i;
        const Number* from = stage + product * 16 * Parts::DEPTH + lane * (16 / sizeof(Number));
        a[i] = vector<Word, 4>(reinterpret_cast<const Word*>(from));
      }
#pragma unroll
      for (int j = 0; j < READS; j++) {
        Word b[AT_ONCE][2];
        Parts::read_input(b, stage, column, position + j * 8 * AT_ONCE);
#pragma unroll
        for (int i = 0; i < DOWN; i++) {
#pragma unroll
          for (int k = 0; k < AT_ONCE; k++) Parts::multiply(sums[i][j][k], a[i].at, b[k]);
        }
      }
    }
  });

#pragma unroll
  for (int j = 0; j < READS; j++) {
    const typename Parts::Spans spans(geometry, first + position + j * 8 * AT_ONCE);
#pragma unroll
    for (int i = 0; i < DOWN; i++) {
#pragma unroll
      for (int lower = 0; lower < 2; lower++) {
        const int target = targets[tile.slots + row + i * 16 + lower * 8 + lane / 4];
        Parts::send_row(output, geometry, target, spans, sums[i][j], lower);
      }
    }
  }
}

}  // namespace masktools
