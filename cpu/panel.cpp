#include "panel.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "pixels.h"

namespace masktools {
namespace {

// Larger than any image, small enough that two of them multiply to less than 64 bits.
constexpr std::int64_t kLargest = std::int64_t{1} << 28;

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

}  // namespace

void check(const Unfolding& u, std::int64_t rows, std::int64_t arena_elements) {
  if (u.height < 1 || u.width < 1 || u.pitch < u.width || u.batch < 1) refuse("impossible image");
  if (u.stride_y < 1 || u.stride_x < 1 || u.columns < 1 || rows < 1) refuse("impossible shape");
  if (u.x.planes < 1 || u.origins.size < 3 || u.origins.size % 3 != 0) refuse("no planes");
  // No product below can leave 64 bits once each factor is known to fit the arena.
  for (std::int64_t n : {u.height, u.pitch, u.batch, u.columns, rows, u.x.planes, u.planes()}) {
    if (n > kLargest) refuse("impossible size");
  }
  if (u.stride_y > kLargest || u.stride_x > kLargest) refuse("impossible stride");
  if (u.x.plane < 0 || u.x.plane > arena_elements || u.plane < 1 || u.plane > arena_elements) {
    refuse("impossible plane");
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
    if (std::max(std::abs(y0), std::abs(x0)) > kLargest) refuse("impossible origin");
    if (more < 0 || more > kLargest) refuse("impossible number of rows");
    if (rows + more > u.plane / u.columns / u.batch) refuse("rows overflow their plane");
  }
}

template <class T>
void unfold(const Unfolding& u, std::int64_t first_channel, std::int64_t last_channel,
            std::int64_t first_row, std::int64_t rows, const T* arena, T* out) {
  const PixelCopy<T> copy = pixel_copy<T>(u.stride_x, u.batch);
  const std::int64_t row_elements = u.columns * u.batch;
  for (std::int64_t c = first_channel; c < last_channel; ++c) {
    const T* image = arena + u.x.offset + c * u.x.plane;
    for (std::int64_t j = 0; j < u.planes(); ++j) {
      T* plane = out + (c * u.planes() + j) * u.plane;
      const std::int64_t y0 = u.origins[3 * j] + first_row * u.stride_y;
      const std::int64_t x0 = u.origins[3 * j + 1];
      const std::int64_t count = rows + u.origins[3 * j + 2];
      const Span y = inside(y0, u.stride_y, u.height, count);
      const Span x = inside(x0, u.stride_x, u.width, u.columns);
      std::fill(plane, plane + y.first * row_elements, T{});
      for (std::int64_t i = y.first; i < y.last; ++i) {
        T* row = plane + i * row_elements;
        const T* in = image + ((y0 + i * u.stride_y) * u.pitch + x0) * u.batch;
        std::fill(row, row + x.first * u.batch, T{});
        if (u.stride_x == 1) {
          std::memcpy(row + x.first * u.batch, in + x.first * u.batch,
                      sizeof(T) * (x.last - x.first) * u.batch);
        } else if (x.first < x.last) {
          copy(in + x.first * u.stride_x * u.batch, row + x.first * u.batch, x.last - x.first,
               u.stride_x, u.batch);
        }
        std::fill(row + x.last * u.batch, row + row_elements, T{});
      }
      std::fill(plane + y.last * row_elements, plane + count * row_elements, T{});
    }
  }
}

template void unfold(const Unfolding&, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                     const float*, float*);
template void unfold(const Unfolding&, std::int64_t, std::int64_t, std::int64_t, std::int64_t,
                     const Bfloat16*, Bfloat16*);

Unfold::Unfold(const Unfolding& unfolding, std::int64_t rows, std::int64_t offset,
               std::int64_t arena_elements)
    : unfolding_(unfolding), rows_(rows), offset_(offset) {
  masktools::check(unfolding, rows, arena_elements);
  const std::int64_t planes = unfolding.x.planes * unfolding.planes();
  if (unfolding.plane > arena_elements / planes ||
      !lies_in(offset, offset + planes * unfolding.plane - 1, arena_elements)) {
    refuse("the planes lie outside the arena");
  }
  const std::int64_t elements = unfolding.plane * unfolding.planes();
  items_ = std::min(unfolding.x.planes, unfolding.x.planes * elements / kItemElements + 1);
}

template <class T>
void Unfold::execute(std::int64_t item, T* arena) const {
  const std::int64_t channels = unfolding_.x.planes;
  unfold(unfolding_, item * channels / items_, (item + 1) * channels / items_, 0, rows_, arena,
         arena + offset_);
}

template void Unfold::execute(std::int64_t, float*) const;
template void Unfold::execute(std::int64_t, Bfloat16*) const;

Panel::Panel(const Unfolding& unfolding, std::int64_t rows, std::int64_t arena_elements)
    : unfolding_(unfolding), rows_(rows) {
  masktools::check(unfolding, rows, arena_elements);
}

std::int64_t Panel::rows_of(const Run& run) const {
  const std::int64_t row = unfolding_.columns * unfolding_.batch;
  return (run.lanes + row - 1) / row;
}

std::int64_t Panel::scratch_elements() const {
  return unfolding_.x.planes * unfolding_.planes() * unfolding_.plane + kSlack;
}

void Panel::check(const Run& run, std::int64_t arena_elements) const {
  if (run.input < 0 || run.input > kLargest) refuse("a run begins at no row");
  if (rows_of(run) > rows_) refuse("a run has more rows than the panel");
  masktools::check(unfolding_, rows_, arena_elements);
}

void Panel::pack(const Run& run, const float* arena, float* scratch) const {
  unfold(unfolding_, 0, unfolding_.x.planes, run.input, rows_of(run), arena, scratch);
}

}  // namespace masktools
