#include "kernels/unfold.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "simd/pixels.h"

namespace masktools {
namespace {

// Larger than any image, small enough that two of them multiply to less than 64 bits.
constexpr std::int64_t kLargestSize = std::int64_t{1} << 28;

// Elements of an unfolded value that one item writes: enough to be worth fetching, little enough
// for threads to end together.
constexpr std::int64_t kItemElements = 16384;

[[noreturn]] void refuse(const std::string& what) {
  throw std::invalid_argument("unfolding: " + what);
}

// Whether [first, last] lies in [0, elements).
bool lies_in(std::int64_t first, std::int64_t last, std::int64_t elements) {
  return first >= 0 && last < elements;
}

// Throws where unfolding `rows` rows of the output would read outside the arena or write beyond a
// plane.
void check(const Unfolding& u, std::int64_t rows, std::int64_t arena_elements) {
  if (u.height < 1 || u.width < 1 || u.pitch < u.width || u.batch < 1) refuse("impossible image");
  if (u.stride_y < 1 || u.stride_x < 1 || u.columns < 1 || rows < 1) refuse("impossible shape");
  if (u.x.planes < 1 || u.origins.size < 3 || u.origins.size % 3 != 0) refuse("no planes");
  // No product below can leave 64 bits once each factor is known to fit the arena.
  for (std::int64_t n : {u.height, u.pitch, u.batch, u.columns, rows, u.x.planes, u.planes()}) {
    if (n > kLargestSize) refuse("impossible size");
  }
  if (u.stride_y > kLargestSize || u.stride_x > kLargestSize) refuse("impossible stride");
  if (u.x.plane < 0 || u.x.plane > arena_elements || u.plane < 1 || u.plane > arena_elements) {
    refuse("impossible plane");
  }
  if (u.x.offset > arena_elements ||
      (u.x.planes > 1 && u.x.plane > arena_elements / (u.x.planes - 1))) {
    refuse("x lies outside the arena");
  }
  const std::int64_t pixels = (u.height - 1) * u.pitch + u.width;
  if (pixels > arena_elements / u.batch) refuse("x lies outside the arena");
  const std::int64_t image = pixels * u.batch;
  if (!lies_in(u.x.offset, u.x.offset + (u.x.planes - 1) * u.x.plane + image - 1, arena_elements)) {
    refuse("x lies outside the arena");
  }
  for (std::int64_t j = 0; j < u.planes(); ++j) {
    const std::int64_t y0 = u.origins[3 * j], x0 = u.origins[3 * j + 1];
    const std::int64_t more = u.origins[3 * j + 2];
    if (std::max(std::abs(y0), std::abs(x0)) > kLargestSize) refuse("impossible origin");
    if (more < 0 || more > kLargestSize) refuse("impossible number of rows");
    if (rows + more > u.plane / u.columns / u.batch) refuse("rows overflow their plane");
  }
}

}  // namespace

Unfold::Unfold(const Unfolding& unfolding, std::int64_t rows, std::int64_t offset,
               std::int64_t arena_elements)
    : unfolding_(unfolding), rows_(rows), offset_(offset) {
  check(unfolding, rows, arena_elements);
  const std::int64_t planes = unfolding.x.planes * unfolding.planes();
  if (offset > arena_elements || unfolding.plane > arena_elements / planes ||
      !lies_in(offset, offset + planes * unfolding.plane - 1, arena_elements)) {
    refuse("the planes lie outside the arena");
  }
  const std::int64_t elements = unfolding.plane * unfolding.planes();
  items_ = std::min(unfolding.x.planes, unfolding.x.planes * elements / kItemElements + 1);
}

template <class T>
void Unfold::execute(std::int64_t item, T* arena) const {
  const std::int64_t channels = unfolding_.x.planes;
  const std::int64_t last = (item + 1) * channels / items_;
  for (std::int64_t c = item * channels / items_; c < last; ++c) {
    unfold(arena + unfolding_.x.offset + c * unfolding_.x.plane,
           arena + offset_ + c * unfolding_.planes() * unfolding_.plane);
  }
}

// Unfolds one channel.
template <class T>
void Unfold::unfold(const T* image, T* planes) const {
  const Unfolding& u = unfolding_;
  const PixelCopy<T> copy = pixel_copy<T>(u.stride_x, u.batch);
  const std::int64_t row_elements = u.columns * u.batch;
  for (std::int64_t j = 0; j < u.planes(); ++j) {
    T* plane = planes + j * u.plane;
    const std::int64_t y0 = u.origins[3 * j], x0 = u.origins[3 * j + 1];
    const std::int64_t count = rows_ + u.origins[3 * j + 2];
    const Span y = inside(y0, u.stride_y, u.height, count);
    const Span x = inside(x0, u.stride_x, u.width, u.columns);
    std::fill(plane, plane + y.first * row_elements, T{});
    for (std::int64_t i = y.first; i < y.last; ++i) {
      T* row = plane + i * row_elements;
      const std::int64_t first = x0 + x.first * u.stride_x;  // pixel of the input
      const T* in = image + ((y0 + i * u.stride_y) * u.pitch + first) * u.batch;
      std::fill(row, row + x.first * u.batch, T{});
      if (u.stride_x == 1) {
        std::memcpy(row + x.first * u.batch, in, sizeof(T) * (x.last - x.first) * u.batch);
      } else if (x.first < x.last) {
        copy(in, row + x.first * u.batch, x.last - x.first, u.stride_x, u.batch);
      }
      std::fill(row + x.last * u.batch, row + row_elements, T{});
    }
    std::fill(plane + y.last * row_elements, plane + count * row_elements, T{});
  }
}

template void Unfold::execute(std::int64_t, float*) const;
template void Unfold::execute(std::int64_t, Bfloat16*) const;

}  // namespace masktools
