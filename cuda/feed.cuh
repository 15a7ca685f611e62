// Brings the operands of a tile to shared memory, DEPTH columns of the weights at a time.
//
// A chunk's weights are one run of memory, packed by the host in the order in which they are read.
// Its input is gathered: for each column, POSITIONS numbers that lie together or in a few runs.
// STAGES chunks are in shared memory at once. With ASYNC they are copied straight there, STAGES - 1
// chunks ahead; otherwise (sm_75, or numbers too small for an asynchronous copy) the next chunk
// waits in registers while this one is multiplied.
#pragma once

#include "device.cuh"
#include "geometry.cuh"
#include "kinds.cuh"

namespace masktools {

// Shape and place of a stage in shared memory, in numbers.
template <class C>
struct Stage {
  using Number = typename C::Number;
  // float16 rows are read as matrices of 8x8 and swizzled: eight numbers change places within the
  // row. tf32 rows are read four rows at once: 8 more numbers a row keep them off each other's
  // banks.
  static constexpr bool SWIZZLED = C::KIND == FLOAT16;
  static constexpr int PITCH = C::POSITIONS + (C::KIND == TF32 ? 8 : 0);
  static constexpr int WEIGHTS = C::DEPTH * C::ROWS;
  static constexpr int SIZE = WEIGHTS + C::DEPTH * PITCH;

  // Returns where the input for (column, position) of a chunk lies, behind the chunk's weights.
  static __device__ __forceinline__ int input(int column, int position) {
    if constexpr (SWIZZLED) position ^= (column & 7) * 8;
    return WEIGHTS + column * PITCH + position;
  }
};

template <class C>
class Feed {
  using Number = typename C::Number;
  using Shape = Stage<C>;
  // One copy of weights, and one of input.
  static constexpr int WIDE = 16 / sizeof(Number), COPY = C::COPY_BYTES / sizeof(Number);
  static constexpr int WEIGHT_COPIES = Shape::WEIGHTS / WIDE;
  // Copies side by side in a row of a chunk. Threads either fill rows, each at a place of its own,
  // or take several places of one row.
  static constexpr int ACROSS = C::POSITIONS / COPY;
  static constexpr int PLACES = ACROSS > C::THREADS ? ACROSS / C::THREADS : 1;
  static constexpr int ROWS_AT_ONCE = C::THREADS > ACROSS ? C::THREADS / ACROSS : 1;
  static constexpr int TURNS = C::DEPTH / ROWS_AT_ONCE;
  static constexpr int WEIGHT_TURNS = (WEIGHT_COPIES + C::THREADS - 1) / C::THREADS;

  static_assert(PLACES == 1 || ACROSS % C::THREADS == 0, "threads must share a row evenly");
  static_assert(ROWS_AT_ONCE == 1 || C::THREADS % ACROSS == 0, "threads must fill whole rows");
  static_assert(C::DEPTH % ROWS_AT_ONCE == 0, "threads must fill whole chunks");
  static_assert(Shape::WEIGHTS % WIDE == 0 && Shape::SIZE % WIDE == 0, "stages must stay aligned");
  static_assert(!Shape::SWIZZLED || C::POSITIONS % 64 == 0, "the swizzle moves within 64 numbers");
  static_assert(!C::ASYNC || C::STAGES >= 3, "asynchronous copies need three stages");
  static_assert(C::ASYNC || C::STAGES == 2, "copies through registers need two stages");

 public:
  // memory: STAGES * Stage<C>::SIZE numbers of shared memory, aligned to 16 bytes.
  // x, weights, columns: as `convolution` gets them. first: the first position of the tile.
  __device__ __forceinline__ Feed(Number* memory, const Number* x, const Number* weights,
                                  const int* columns, const Tile& tile, const Geometry& geometry,
                                  int first)
      : memory_(memory), weights_(weights + tile.weights), columns_(columns + tile.columns) {
    chunks_ = tile.depth / C::DEPTH;
#pragma unroll
    for (int p = 0; p < PLACES; p++) {
      const int position = first + place(p);
      // Beyond the last position, any input will do: what becomes of it is not stored.
      x_[p] = x + locate(geometry.x, geometry, position < geometry.positions ? position : 0);
    }
    look_up(0);
  }

  // Calls multiply(stage) for each chunk in turn, with the chunk in shared memory at `stage`.
  template <class Multiply>
  __device__ __forceinline__ void run(Multiply multiply) {
    if constexpr (C::ASYNC) {
      run_async(multiply);
    } else {
      run_registers(multiply);
    }
  }

 private:
  template <class Multiply>
  __device__ __forceinline__ void run_async(Multiply multiply) {
#pragma unroll
    for (int chunk = 0; chunk < C::STAGES - 1; chunk++) {
      start(chunk, chunk);
      close_group();
    }
    int stage = 0, next = C::STAGES - 1;
    for (int chunk = 0; chunk < chunks_; chunk++) {
      // The copies of this chunk have arrived, everyone's; and everyone is done with the chunk
      // before it, whose stage is filled next.
      wait_groups<C::STAGES - 2>();
      __syncthreads();
      start(chunk + C::STAGES - 1, next);
      close_group();
      multiply(memory_ + stage * Shape::SIZE);
      stage = stage + 1 == C::STAGES ? 0 : stage + 1;
      next = next + 1 == C::STAGES ? 0 : next + 1;
    }
  }

  template <class Multiply>
  __device__ __forceinline__ void run_registers(Multiply multiply) {
    fetch(0);
    put(0, 0);
    __syncthreads();
    for (int chunk = 0; chunk < chunks_; chunk++) {
      fetch(chunk + 1);
      multiply(memory_ + (chunk & 1) * Shape::SIZE);
      // The other stage was read before the last barrier.
      put(chunk + 1, (chunk + 1) & 1);
      __syncthreads();
    }
  }

  // The place of this thread's p-th copy in a row, and the row of its turn.
  static __device__ __forceinline__ int place(int p) {
    return (static_cast<int>(threadIdx.x) % ACROSS + p * C::THREADS) * COPY;
  }
  static __device__ __forceinline__ int row(int turn) {
    return static_cast<int>(threadIdx.x) / ACROSS + turn * ROWS_AT_ONCE;
  }

  // Reads the columns of a chunk ahead of its copies, which would wait for them.
  __device__ __forceinline__ void look_up(int chunk) {
    if (chunk >= chunks_) return;
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
      columns_ahead_[turn] = __ldg(columns_ + chunk * C::DEPTH + row(turn));
    }
  }

  // Starts the copies of a chunk, whose columns were looked up, to a stage.
  __device__ __forceinline__ void start(int chunk, int stage) {
    if (chunk >= chunks_) return;
    Number* to = memory_ + stage * Shape::SIZE;
    const Number* from = weights_ + chunk * Shape::WEIGHTS;
#pragma unroll
    for (int turn = 0; turn < WEIGHT_TURNS; turn++) {
      const int copy = threadIdx.x + turn * C::THREADS;
      if (WEIGHT_COPIES % C::THREADS == 0 || copy < WEIGHT_COPIES) {
        copy_async<16>(to + copy * WIDE, from + copy * WIDE);
      }
    }
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
#pragma unroll
      for (int p = 0; p < PLACES; p++) {
        copy_async<C::COPY_BYTES>(to + Shape::input(row(turn), place(p)),
                                  x_[p] + columns_ahead_[turn]);
      }
    }
    look_up(chunk + 1);
  }

  // Reads a chunk, whose columns were looked up, into registers.
  __device__ __forceinline__ void fetch(int chunk) {
    if (chunk >= chunks_) return;
    const Number* from = weights_ + chunk * Shape::WEIGHTS;
#pragma unroll
    for (int turn = 0; turn < WEIGHT_TURNS; turn++) {
      const int copy = threadIdx.x + turn * C::THREADS;
      if (WEIGHT_COPIES % C::THREADS == 0 || copy < WEIGHT_COPIES) {
        held_weights_[turn] = read<Number, WIDE>(from + copy * WIDE);
      }
    }
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
#pragma unroll
      for (int p = 0; p < PLACES; p++) {
        held_input_[turn][p] = read<Number, COPY>(x_[p] + columns_ahead_[turn]);
      }
    }
    look_up(chunk + 1);
  }

  // Writes the chunk that the registers hold to a stage.
  __device__ __forceinline__ void put(int chunk, int stage) {
    if (chunk >= chunks_) return;
    Number* to = memory_ + stage * Shape::SIZE;
#pragma unroll
    for (int turn = 0; turn < WEIGHT_TURNS; turn++) {
      const int copy = threadIdx.x + turn * C::THREADS;
      if (WEIGHT_COPIES % C::THREADS == 0 || copy < WEIGHT_COPIES) {
        vector<Number, WIDE>(to + copy * WIDE) = held_weights_[turn];
      }
    }
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++) {
#pragma unroll
      for (int p = 0; p < PLACES; p++) {
        vector<Number, COPY>(to + Shape::input(row(turn), place(p))) = held_input_[turn][p];
      }
    }
  }

  Number* memory_;
  const Number* weights_;
  const int* columns_;
  const Number* x_[PLACES];
  int chunks_;
  int columns_ahead_[TURNS];
  // Optimised away where copies are asynchronous.
  Vector<Number, WIDE> held_weights_[C::ASYNC ? 1 : WEIGHT_TURNS];
  Vector<Number, COPY> held_input_[C::ASYNC ? 1 : TURNS][C::ASYNC ? 1 : PLACES];
};

}  // namespace masktools
