// Copies pixels at a stride: what packs values whose vectors run along their pixels.
#pragma once

#include <algorithm>
#include <cstdint>

namespace masktools {

// Copies `pixels` pixels of `kBatch` elements, every `kStride`th of the input; a 0 stands for a
// number known at run time only. Loops of known length become a few shuffles or whole vectors.
template <class T, int kStride, int kBatch>
void copy_pixels(const T* __restrict in, T* __restrict out, std::int64_t pixels,
                 std::int64_t stride, std::int64_t batch) {
  const std::int64_t s = kStride ? kStride : stride;
  const std::int64_t n = kBatch ? kBatch : batch;
  for (std::int64_t k = 0; k < pixels; ++k) {
    for (std::int64_t i = 0; i < n; ++i) out[k * n + i] = in[k * s * n + i];
  }
}

template <class T>
using PixelCopy = void (*)(const T*, T*, std::int64_t, std::int64_t, std::int64_t);

template <class T, int kBatch>
PixelCopy<T> pixel_copy_for(std::int64_t stride) {
  switch (stride) {
    case 1:
      return copy_pixels<T, 1, kBatch>;
    case 2:
      return copy_pixels<T, 2, kBatch>;
    case 4:
      return copy_pixels<T, 4, kBatch>;
    default:
      return copy_pixels<T, 0, kBatch>;
  }
}

// The copy_pixels for a stride and a batch.
template <class T>
PixelCopy<T> pixel_copy(std::int64_t stride, std::int64_t batch) {
  switch (batch) {
    case 1:
      return pixel_copy_for<T, 1>(stride);
    case 2:
      return pixel_copy_for<T, 2>(stride);
    case 4:
      return pixel_copy_for<T, 4>(stride);
    case 8:
      return pixel_copy_for<T, 8>(stride);
    default:
      return pixel_copy_for<T, 0>(stride);
  }
}

// Entries [first, last) of a list.
struct Span {
  std::int64_t first, last;

  bool operator==(const Span& other) const { return first == other.first && last == other.last; }
};

// The part of `count` entries x0 + k * stride that lies in [0, size).
inline Span inside(std::int64_t x0, std::int64_t stride, std::int64_t size, std::int64_t count) {
  const std::int64_t first = x0 >= 0 ? 0 : (-x0 + stride - 1) / stride;
  const std::int64_t last = x0 >= size ? 0 : (size - 1 - x0) / stride + 1;
  const std::int64_t end = std::clamp<std::int64_t>(last, 0, count);
  return {std::min(first, end), end};
}

}  // namespace masktools
