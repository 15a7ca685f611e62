#include "steps/gather.h"

#include <algorithm>
#include <array>
#include <stdexcept>

#include "simd/bfloat16.h"

namespace masktools {
namespace {

constexpr std::int64_t kGranularity = 16;  // elements: pieces of a row share no cache line

// Each axis of y has a table of offsets into x; -1 where it is the fill value, whatever the other
// axes say. Axes keep the order of y's strides, the innermost last.
template <class T>
class Gather final : public Operation {
 public:
  Gather(const View& x, const View& y, const std::vector<AxisIndices>& axes, float fill)
      : x_offset_(x.offset),
        y_offset_(y.offset),
        rank_(std::max(y.rank, 1)),
        fill_(static_cast<T>(fill)) {
    std::vector<int> order(y.rank);
    for (int axis = 0; axis < y.rank; ++axis) order[axis] = axis;
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return y.strides[a] > y.strides[b]; });
    tables_[0] = {0};
    shape_[0] = 1;
    for (int n = 0; n < y.rank; ++n) {
      const int axis = order[n];
      shape_[n] = y.shape[axis];
      y_strides_[n] = y.strides[axis];
      tables_[n].resize(y.shape[axis]);
      for (std::int64_t i = 0; i < y.shape[axis]; ++i) tables_[n][i] = i * x.strides[axis];
      whole_rows_ = x.strides[axis] == 1;
      for (const AxisIndices& chosen : axes) {
        if (chosen.axis != axis) continue;
        whole_rows_ = false;
        for (std::int64_t i = 0; i < y.shape[axis]; ++i) {
          const std::int64_t index = chosen.indices[i];
          tables_[n][i] = index < 0 ? kNone : index * x.strides[axis];
        }
      }
    }
    std::int64_t rows = 1;
    for (int n = 0; n + 1 < rank_; ++n) rows *= shape_[n];
    cut_ = Cut(rows, shape_[rank_ - 1], kGranularity);
  }

  std::int64_t items() const override { return cut_.items(); }

  void execute(std::int64_t item, const Buffers& buffers, std::byte*) const override {
    T* arena = reinterpret_cast<T*>(buffers.arena);
    cut_.for_each(item,
                  [&](std::int64_t first, std::int64_t last, std::int64_t begin, std::int64_t end) {
                    for (std::int64_t row = first; row < last; ++row) copy(row, begin, end, arena);
                  });
  }

 private:
  static constexpr std::int64_t kNone = INT64_MIN;

  void copy(std::int64_t row, std::int64_t begin, std::int64_t end, T* arena) const {
    std::int64_t from = x_offset_, to = y_offset_;
    bool inside = true;
    for (int n = rank_ - 2; n >= 0; --n) {
      const std::int64_t index = row % shape_[n];
      row /= shape_[n];
      to += index * y_strides_[n];
      const std::int64_t offset = tables_[n][index];
      inside &= offset != kNone;
      from += inside ? offset : 0;
    }
    const std::vector<std::int64_t>& table = tables_[rank_ - 1];
    const std::int64_t stride = y_strides_[rank_ - 1];
    if (inside && whole_rows_ && stride == 1) {
      std::copy_n(arena + from + begin, end - begin, arena + to + begin);
      return;
    }
    for (std::int64_t i = begin; i < end; ++i) {
      arena[to + i * stride] = inside && table[i] != kNone ? arena[from + table[i]] : fill_;
    }
  }

  const std::int64_t x_offset_, y_offset_;
  const int rank_;
  const T fill_;
  Index shape_{}, y_strides_{};
  std::array<std::vector<std::int64_t>, kMaxRank> tables_;
  bool whole_rows_ = false;  // the innermost axis is not gathered, and x has it in one piece
  Cut cut_;
};

void check_gather(const View& x, const View& y, const std::vector<AxisIndices>& axes) {
  if (x.rank != y.rank) throw std::invalid_argument("gather: x and y differ in rank");
  std::array<bool, kMaxRank> gathered{};
  for (const AxisIndices& chosen : axes) {
    if (chosen.axis < 0 || chosen.axis >= x.rank || gathered[chosen.axis]) {
      throw std::invalid_argument("gather: impossible axis");
    }
    gathered[chosen.axis] = true;
    if (static_cast<std::int64_t>(chosen.indices.size()) != y.shape[chosen.axis]) {
      throw std::invalid_argument("gather: as many indices as y has entries are needed");
    }
    for (const std::int32_t index : chosen.indices) {
      if (index < -1 || index >= x.shape[chosen.axis]) {
        throw std::invalid_argument("gather: an index lies outside x");
      }
    }
  }
  for (int axis = 0; axis < x.rank; ++axis) {
    if (!gathered[axis] && x.shape[axis] != y.shape[axis]) {
      throw std::invalid_argument("gather: x and y differ along an axis that is not gathered");
    }
  }
}

}  // namespace

template <class T>
std::unique_ptr<const Operation> make_gather(const View& x, const View& y,
                                             const std::vector<AxisIndices>& axes, float fill,
                                             std::int64_t arena_elements) {
  check_readable(x, arena_elements, "gather: x");
  check_writable(y, arena_elements, "gather: y");
  check_gather(x, y, axes);
  return std::make_unique<Gather<T>>(x, y, axes, fill);
}

#define INSTANTIATE(T)                                      \
  template std::unique_ptr<const Operation> make_gather<T>( \
      const View&, const View&, const std::vector<AxisIndices>&, float, std::int64_t);
INSTANTIATE(float)
INSTANTIATE(Bfloat16)
#undef INSTANTIATE

}  // namespace masktools
