// Strided views of an arena, and loops over several of them at once.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "program/operation.h"

namespace masktools {

constexpr int kMaxRank = 8;

using Index = std::array<std::int64_t, kMaxRank>;

// An array in the arena: element (i0, i1, ...) is at offset + i0 * strides[0] + i1 * strides[1]...
struct View {
  std::int64_t offset = 0;
  int rank = 0;
  Index shape{};
  Index strides{};  // in elements; 0 repeats an element

  std::int64_t elements() const;
};

// Throws std::invalid_argument, naming the view as `what`, if its shape is impossible or an element
// of it lies outside an arena of so many elements.
void check_readable(const View& view, std::int64_t arena_elements, const char* what);

// The same, and throws if two indices may mean one element: threads would race for it.
void check_writable(const View& view, std::int64_t arena_elements, const char* what);

// Throws std::invalid_argument unless both have the same shape.
void check_same_shape(const View& a, const View& b, const char* what);

// A C-contiguous view.
View contiguous(int rank, const Index& shape);

// `view` as one of `shape`, by NumPy's rules of broadcasting. Throws std::invalid_argument.
View broadcast_to(const View& view, int rank, const Index& shape);

// Loops over `kViews` views of one shape, the outermost first: those of size 1 left out, in the
// order of the strides of view 0, and merged where all views allow it.
template <int kViews>
struct Nest {
  int rank = 0;  // 1 at least
  Index shape{};
  std::array<Index, kViews> strides{};
  std::array<std::int64_t, kViews> offsets{};

  explicit Nest(const std::array<View, kViews>& views);

  std::int64_t outer() const {
    std::int64_t count = 1;
    for (int axis = 0; axis + 1 < rank; ++axis) count *= shape[axis];
    return count;
  }
  std::int64_t inner() const { return shape[rank - 1]; }
  std::int64_t inner_stride(int view) const { return strides[view][rank - 1]; }

  // From one row to the next of those that lie at one distance.
  std::int64_t row_stride(int view) const { return rank > 1 ? strides[view][rank - 2] : 0; }

  // Moves axis `axis` to the innermost place.
  void make_innermost(int axis);
};

extern template struct Nest<1>;
extern template struct Nest<2>;
extern template struct Nest<3>;
extern template struct Nest<4>;

// Rows [first, last) of a nest without its `kInner` innermost axes: calls row(offsets) with the
// offset of each view.
template <int kInner, int kViews, class Row>
void for_each_row(const Nest<kViews>& nest, std::int64_t first, std::int64_t last, const Row& row) {
  const int axes = nest.rank - kInner;
  Index index{};
  std::array<std::int64_t, kViews> offsets = nest.offsets;
  std::int64_t rest = first;
  for (int axis = axes - 1; axis >= 0; --axis) {
    index[axis] = rest % nest.shape[axis];
    rest /= nest.shape[axis];
    for (int v = 0; v < kViews; ++v) offsets[v] += index[axis] * nest.strides[v][axis];
  }
  for (std::int64_t n = first; n < last; ++n) {
    row(offsets);
    for (int axis = axes - 1; axis >= 0; --axis) {
      for (int v = 0; v < kViews; ++v) offsets[v] += nest.strides[v][axis];
      if (++index[axis] < nest.shape[axis]) break;
      for (int v = 0; v < kViews; ++v) offsets[v] -= nest.shape[axis] * nest.strides[v][axis];
      index[axis] = 0;
    }
  }
}

// The same for `kInner` = 1, but rows that lie at one distance are given together: calls
// rows(offsets, count); row i of view v is at offsets[v] + i * nest.row_stride(v).
template <int kViews, class Rows>
void for_rows_together(const Nest<kViews>& nest, std::int64_t first, std::int64_t last,
                       const Rows& rows) {
  const std::int64_t size = nest.rank > 1 ? nest.shape[nest.rank - 2] : 1;
  for (std::int64_t n = first; n < last;) {
    const std::int64_t within = n % size, left = size - within;
    const std::int64_t count = left < last - n ? left : last - n;
    std::array<std::int64_t, kViews> offsets = nest.offsets;
    std::int64_t rest = n / size;
    for (int v = 0; v < kViews; ++v) offsets[v] += within * nest.row_stride(v);
    for (int axis = nest.rank - 3; axis >= 0; --axis) {
      for (int v = 0; v < kViews; ++v) {
        offsets[v] += rest % nest.shape[axis] * nest.strides[v][axis];
      }
      rest /= nest.shape[axis];
    }
    rows(offsets, count);
    n += count;
  }
}

// How the rows of a nest are cut into items: each row into `pieces` of `piece` elements (the last
// may have fewer), all pieces of all rows into `items` parts.
class Cut {
 public:
  Cut() = default;
  Cut(std::int64_t rows, std::int64_t row_elements, std::int64_t granularity = 1);

  std::int64_t items() const { return items_; }

  // Calls piece(first_row, last_row, begin, end): elements [begin, end) of those rows.
  template <class Piece>
  void for_each(std::int64_t item, const Piece& piece) const {
    std::int64_t unit = part_start(item, items_, rows_ * pieces_);
    const std::int64_t last = part_start(item + 1, items_, rows_ * pieces_);
    if (pieces_ == 1) {
      piece(unit, last, std::int64_t{0}, row_elements_);
      return;
    }
    for (; unit < last; ++unit) {
      const std::int64_t begin = unit % pieces_ * piece_elements_;
      const std::int64_t end =
          begin + piece_elements_ < row_elements_ ? begin + piece_elements_ : row_elements_;
      piece(unit / pieces_, unit / pieces_ + 1, begin, end);
    }
  }

 private:
  std::int64_t rows_ = 0;
  std::int64_t row_elements_ = 0;
  std::int64_t pieces_ = 1;
  std::int64_t piece_elements_ = 0;
  std::int64_t items_ = 0;
};

}  // namespace masktools
