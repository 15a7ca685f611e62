#include "program/view.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace masktools {
namespace {

// More than any arena holds; small enough that kMaxRank of them add up without overflow.
constexpr std::int64_t kLargest = std::int64_t{1} << 40;

// Elements of an item: enough to be worth fetching, few enough for threads to end together.
constexpr std::int64_t kItemElements = 8192;
constexpr std::int64_t kMostItems = 4096;

[[noreturn]] void refuse(const char* what, const std::string& why) {
  throw std::invalid_argument(std::string(what) + ": " + why);
}

std::string text(int rank, const Index& shape) {
  std::string joined = "(";
  for (int axis = 0; axis < rank; ++axis) {
    joined += (axis != 0 ? ", " : "") + std::to_string(shape[axis]);
  }
  return joined + ")";
}

// Whether no two indices mean one element: sorted by stride, each axis steps over all that the
// axes within it reach. Sufficient, and necessary for every layout that a plan has.
bool distinct(const View& view) {
  std::array<int, kMaxRank> axes{};
  int count = 0;
  for (int axis = 0; axis < view.rank; ++axis) {
    if (view.shape[axis] > 1) axes[count++] = axis;
  }
  const auto stride = [&](int axis) { return std::abs(view.strides[axis]); };
  std::stable_sort(axes.begin(), axes.begin() + count,
                   [&](int a, int b) { return stride(a) < stride(b); });
  std::int64_t reach = 0;
  for (int n = 0; n < count; ++n) {
    if (stride(axes[n]) <= reach) return false;
    reach += stride(axes[n]) * (view.shape[axes[n]] - 1);
  }
  return true;
}

}  // namespace

std::int64_t View::elements() const {
  std::int64_t count = 1;
  for (int axis = 0; axis < rank; ++axis) count *= shape[axis];
  return count;
}

void check_readable(const View& view, std::int64_t arena_elements, const char* what) {
  if (view.offset < 0 || view.offset > arena_elements) refuse(what, "lies outside the arena");
  std::int64_t count = 1, lowest = view.offset, highest = view.offset;
  for (int axis = 0; axis < view.rank; ++axis) {
    const std::int64_t size = view.shape[axis], stride = view.strides[axis];
    if (size < 0 || size > kLargest)
      refuse(what, "impossible shape " + text(view.rank, view.shape));
    if (stride < -kLargest || stride > kLargest) refuse(what, "impossible strides");
    std::int64_t reach = 0;
    if (__builtin_mul_overflow(count, size, &count) || count > kLargest ||
        __builtin_mul_overflow(std::max<std::int64_t>(size - 1, 0), stride, &reach) ||
        std::abs(reach) > kLargest) {
      refuse(what, "is larger than any arena");
    }
    (reach < 0 ? lowest : highest) += reach;
  }
  if (count != 0 && (lowest < 0 || highest >= arena_elements)) {
    refuse(what, "elements " + std::to_string(lowest) + " to " + std::to_string(highest) +
                     " of an arena of " + std::to_string(arena_elements));
  }
}

void check_writable(const View& view, std::int64_t arena_elements, const char* what) {
  check_readable(view, arena_elements, what);
  if (!distinct(view)) refuse(what, "several indices mean one element");
}

void check_same_shape(const View& a, const View& b, const char* what) {
  if (a.rank != b.rank || !std::equal(a.shape.begin(), a.shape.begin() + a.rank, b.shape.begin())) {
    refuse(what, "shapes " + text(a.rank, a.shape) + " and " + text(b.rank, b.shape) + " differ");
  }
}

View contiguous(int rank, const Index& shape) {
  View view{0, rank, shape, {}};
  std::int64_t stride = 1;
  for (int axis = rank - 1; axis >= 0; --axis) {
    view.strides[axis] = stride;
    stride *= shape[axis];
  }
  return view;
}

View broadcast_to(const View& view, int rank, const Index& shape) {
  View wide{view.offset, rank, shape, {}};
  const int missing = rank - view.rank;
  if (missing < 0) refuse("broadcast", "operand of more axes than the result");
  for (int axis = 0; axis < view.rank; ++axis) {
    if (view.shape[axis] == shape[axis + missing]) {
      wide.strides[axis + missing] = view.strides[axis];
    } else if (view.shape[axis] != 1) {
      refuse("broadcast", text(view.rank, view.shape) + " does not fit " + text(rank, shape));
    }
  }
  return wide;
}

template <int kViews>
Nest<kViews>::Nest(const std::array<View, kViews>& views) {
  std::array<int, kMaxRank> axes{};
  int count = 0;
  for (int axis = 0; axis < views[0].rank; ++axis) {
    if (views[0].shape[axis] != 1) axes[count++] = axis;
  }
  std::stable_sort(axes.begin(), axes.begin() + count, [&](int a, int b) {
    return std::abs(views[0].strides[a]) > std::abs(views[0].strides[b]);
  });
  for (int v = 0; v < kViews; ++v) offsets[v] = views[v].offset;
  for (int n = 0; n < count; ++n) {
    const std::int64_t size = views[0].shape[axes[n]];
    bool merged = rank > 0;
    for (int v = 0; v < kViews && merged; ++v) {
      merged = strides[v][rank - 1] == views[v].strides[axes[n]] * size;
    }
    const int at = merged ? rank - 1 : rank++;
    shape[at] = merged ? shape[at] * size : size;
    for (int v = 0; v < kViews; ++v) strides[v][at] = views[v].strides[axes[n]];
  }
  if (rank > 0) return;
  rank = 1;  // a single element
  shape[0] = 1;
}

template <int kViews>
void Nest<kViews>::make_innermost(int axis) {
  std::rotate(shape.begin() + axis, shape.begin() + axis + 1, shape.begin() + rank);
  for (Index& s : strides) std::rotate(s.begin() + axis, s.begin() + axis + 1, s.begin() + rank);
}

template struct Nest<1>;
template struct Nest<2>;
template struct Nest<3>;
template struct Nest<4>;

Cut::Cut(std::int64_t rows, std::int64_t row_elements, std::int64_t granularity)
    : rows_(rows), row_elements_(row_elements), piece_elements_(row_elements) {
  const std::int64_t elements = rows * row_elements;
  if (elements == 0) return;
  const std::int64_t wanted = std::min({elements / kItemElements + 1, elements, kMostItems});
  if (rows < wanted) {
    const std::int64_t pieces = (wanted + rows - 1) / rows;
    piece_elements_ = (row_elements + pieces - 1) / pieces;
    piece_elements_ = (piece_elements_ + granularity - 1) / granularity * granularity;
    pieces_ = (row_elements + piece_elements_ - 1) / piece_elements_;
  }
  items_ = std::min(wanted, rows_ * pieces_);
}

}  // namespace masktools
