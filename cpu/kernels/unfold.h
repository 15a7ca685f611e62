// Unfolds what a strided or otherwise awkward convolution reads, so that it becomes one of stride 1
// without padding.
#pragma once

#include <cstdint>

#include "program/arena.h"
#include "simd/bfloat16.h"

namespace masktools {

// A value whose vectors run along its pixels, unfolded: each channel becomes J planes, one for
// each phase of its rows and of its columns (or each tap along x: see
// runtime/cpu/kernels/unfold.py),
//
//   u(c, j, i, k, n) = x(c, y0[j] + i * stride_y, x0[j] + k * stride_x, n),  0 outside the image,
//
// so that lane (i, k, n) of the output finds every one of its taps at lane (i + row, k + column, n)
// of one of the planes. Phases write the input once, where a plane for each tap (im2col) would
// write it kh * kw / (stride_y * stride_x) times.
struct Unfolding {
  Planes x;
  std::int64_t height = 0, width = 0;  // of x
  std::int64_t pitch = 0;              // pixels from one row of x to the next
  std::int64_t batch = 0;              // elements of a pixel
  std::int64_t stride_y = 1, stride_x = 1;

  // [J][3]: y0, x0, and the rows that the plane has beyond those of the output.
  Array<std::int64_t> origins;

  std::int64_t columns = 0;  // pixels in a row of an unfolded plane, all that taps reach included
  std::int64_t plane = 0;    // elements from one unfolded plane to the next

  std::int64_t planes() const { return origins.size / 3; }
};

// Unfolds a value into the arena, channel by channel.
class Unfold {
 public:
  // Writes x.planes * J planes from `offset` on, each of `rows` rows of the output and what the
  // taps need beyond; they overlap no x. Throws std::invalid_argument, naming what is wrong, if
  // anything would be read or written outside the arena, or written beyond a plane.
  Unfold(const Unfolding& unfolding, std::int64_t rows, std::int64_t offset,
         std::int64_t arena_elements);

  std::int64_t items() const { return items_; }

  // Executes one item. `arena` is element 0. T: float or Bfloat16.
  template <class T>
  void execute(std::int64_t item, T* arena) const;

 private:
  template <class T>
  void unfold(const T* image, T* planes) const;

  Unfolding unfolding_;
  std::int64_t rows_;
  std::int64_t offset_;
  std::int64_t items_;
};

}  // namespace masktools
