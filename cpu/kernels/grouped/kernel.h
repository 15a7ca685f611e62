// Micro-kernels: the sums of a group over one tile of lanes, kept in registers from the bias to the
// epilogue.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/grouped/layer.h"
#include "simd/epilogue.h"
#include "simd/vector.h"

namespace masktools {

// What is the same for all kernel calls of a layer.
struct Call {
  Bounds bounds;
  Activation activation;
  bool bounded = true;  // the activation is `bounds`
  float scale = 1.0f;   // of what is written, where runs are combined
  std::int64_t prefetch = 0;
};

// Rows that share their columns; see Layer.
struct Group {
  const std::int32_t* offsets;     // of its columns
  const std::int32_t* tap_starts;  // in columns
  const float* weights;            // [column][row]
  const std::int32_t* rows;        // planes
  std::int32_t flags;              // GroupFlags
};

// The lanes that groups go over, and the taps of them.
struct Tile {
  const std::int32_t* taps;  // ranges [first, last)
  std::int64_t ranges;

  // Each at the first lane: of x, of plane 0 of the output, of plane 0 of the partial sums (the
  // output itself, or scratch), of plane 0 of the skip branch or null.
  const float* x;
  float* y;
  std::int64_t y_plane;
  float* partial;
  std::int64_t partial_plane;
  const float* skip;
  std::int64_t skip_plane;
  const float* bias;         // by plane, or null
  const std::int32_t* mask;  // by lane, or null
  std::int64_t lanes;
  Combine combine;

  // From one vector to the next, of x, of the output and the skip branch, of the partial sums.
  std::int64_t x_step, y_step, partial_step;
  bool contiguous;  // each is one vector
};

// Executes groups [first, last), all of the same height, on a tile.
using Kernel = void (*)(const Call&, const Tile&, const Group* first, const Group* last);

// Vectors of the widest kernel of a group of so many rows: as many as the registers hold beside a
// weight and, where several rows share it, the column.
constexpr int vectors(std::int64_t rows) {
  return static_cast<int>(rows == 1 ? kRegisters * 3 / 4 : (kRegisters - 2) / (rows + 1));
}
constexpr int kMaxVectors = vectors(1);

// The same where vectors lie apart: as many as there are registers for their distances.
constexpr int vectors_apart(std::int64_t rows) { return std::min(vectors(rows), 6); }

// The kernel of groups of so many rows for so many vectors, 1 to vectors(rows); of those that also
// take vectors that lie apart, to vectors_apart(rows).
Kernel kernel_of(std::int64_t rows, std::int64_t width, bool contiguous);

}  // namespace masktools
