#include "steps/interpolation.h"

#include <algorithm>
#include <stdexcept>

#include "simd/bfloat16.h"

namespace masktools {
namespace {

// A row runs along the axis itself where its entries lie next to each other; else along the
// innermost of the other axes, for one entry of the axis, so that each tap is a row of x.
template <class T>
class Interpolation final : public Operation {
 public:
  Interpolation(const View& x, const View& y, const AxisTaps& along)
      : nest_({without(y, along.axis), without(x, along.axis)}),
        size_(y.shape[along.axis]),
        taps_(along.taps),
        y_stride_(y.strides[along.axis]),
        x_stride_(x.strides[along.axis]),
        along_axis_(y_stride_ == 1 && x_stride_ == 1 &&
                    (nest_.inner() == 1 || nest_.inner_stride(0) != 1)) {
    // Along the axis the entries' first taps lie together, then their second ones.
    for (std::int64_t n = 0; n < size_ * taps_; ++n) {
      const std::int64_t from = along_axis_ ? n % size_ * taps_ + n / size_ : n;
      offsets_.push_back(along.indices[from] * x_stride_);
      weights_.push_back(along.weights[from]);
    }
    cut_ = along_axis_ ? Cut(nest_.outer() * nest_.inner(), size_, kGranularity)
                       : Cut(nest_.outer() * size_, nest_.inner(), kGranularity);
  }

  std::int64_t items() const override { return cut_.items(); }

  void execute(std::int64_t item, const Buffers& buffers, std::byte*) const override {
    T* arena = reinterpret_cast<T*>(buffers.arena);
    cut_.for_each(
        item, [&](std::int64_t first, std::int64_t last, std::int64_t begin, std::int64_t end) {
          if (along_axis_) {
            for_each_row<0>(nest_, first, last, [&](const std::array<std::int64_t, 2>& at) {
              for (std::int64_t i = begin; i < end; i += kBlock) {
                make_along(arena + at[1], arena + at[0], i, std::min(kBlock, end - i));
              }
            });
            return;
          }
          for (std::int64_t row = first; row < last; ++row) make_row(row, begin, end, arena);
        });
  }

 private:
  static constexpr std::int64_t kBlock = 64;        // results that are worked on side by side
  static constexpr std::int64_t kGranularity = 16;  // pieces of a row share no cache line

  // One entry of `axis`.
  static View without(View view, int axis) {
    view.shape[axis] = 1;
    return view;
  }

  // Entries [first, first + count) of the axis.
  void make_along(const T* x, T* y, std::int64_t first, std::int64_t count) const {
    float sums[kBlock] = {};
    for (std::int64_t t = 0; t < taps_; ++t) {
      const std::int64_t* offsets = offsets_.data() + t * size_ + first;
      const float* weights = weights_.data() + t * size_ + first;
      for (std::int64_t i = 0; i < count; ++i) {
        sums[i] += weights[i] * static_cast<float>(x[offsets[i]]);
      }
    }
    for (std::int64_t i = 0; i < count; ++i) y[first + i] = static_cast<T>(sums[i]);
  }

  // Elements [begin, end) of one entry of the axis.
  void make_row(std::int64_t row, std::int64_t begin, std::int64_t end, T* arena) const {
    const std::int64_t entry = row % size_, outer = row / size_;
    const std::int64_t* offsets = offsets_.data() + entry * taps_;
    const float* weights = weights_.data() + entry * taps_;
    for_each_row<1>(nest_, outer, outer + 1, [&](const std::array<std::int64_t, 2>& at) {
      const std::int64_t y_step = nest_.inner_stride(0), x_step = nest_.inner_stride(1);
      T* to = arena + at[0] + entry * y_stride_;
      for (std::int64_t i = begin; i < end; i += kBlock) {
        const std::int64_t count = std::min(kBlock, end - i);
        float sums[kBlock] = {};
        for (std::int64_t t = 0; t < taps_; ++t) {
          add_row(arena + at[1] + offsets[t] + i * x_step, x_step, weights[t], sums, count);
        }
        for (std::int64_t j = 0; j < count; ++j) to[(i + j) * y_step] = static_cast<T>(sums[j]);
      }
    });
  }

  // sums[i] += weight * x[i * step]
  static void add_row(const T* x, std::int64_t step, float weight, float* sums, std::int64_t n) {
    if (step == 1) {
      for (std::int64_t i = 0; i < n; ++i) sums[i] += weight * static_cast<float>(x[i]);
    } else {
      for (std::int64_t i = 0; i < n; ++i) sums[i] += weight * static_cast<float>(x[i * step]);
    }
  }

  const Nest<2> nest_;  // of y and x, at the first entry of the axis
  const std::int64_t size_, taps_;
  const std::int64_t y_stride_, x_stride_;
  const bool along_axis_;
  std::vector<std::int64_t> offsets_;
  std::vector<float> weights_;
  Cut cut_;
};

void check_taps(const View& x, const View& y, const AxisTaps& along) {
  if (x.rank != y.rank) throw std::invalid_argument("interpolate: x and y differ in rank");
  if (along.axis < 0 || along.axis >= x.rank) {
    throw std::invalid_argument("interpolate: impossible axis");
  }
  for (int axis = 0; axis < x.rank; ++axis) {
    if (axis != along.axis && x.shape[axis] != y.shape[axis]) {
      throw std::invalid_argument("interpolate: x and y differ along another axis");
    }
  }
  const auto given = static_cast<std::int64_t>(along.indices.size());
  const std::int64_t size = y.shape[along.axis];
  if (along.taps < 1 || given % along.taps != 0 || given / along.taps != size ||
      along.weights.size() != along.indices.size()) {
    throw std::invalid_argument("interpolate: each entry of y needs as many taps and weights");
  }
  for (const std::int32_t index : along.indices) {
    if (index < 0 || index >= x.shape[along.axis]) {
      throw std::invalid_argument("interpolate: an index lies outside x");
    }
  }
}

}  // namespace

template <class T>
std::unique_ptr<const Operation> make_interpolation(const View& x, const View& y,
                                                    const AxisTaps& along,
                                                    std::int64_t arena_elements) {
  check_readable(x, arena_elements, "interpolate: x");
  check_writable(y, arena_elements, "interpolate: y");
  check_taps(x, y, along);
  return std::make_unique<Interpolation<T>>(x, y, along);
}

#define INSTANTIATE(T)                                                                      \
  template std::unique_ptr<const Operation> make_interpolation<T>(const View&, const View&, \
                                                                  const AxisTaps&, std::int64_t);
INSTANTIATE(float)
INSTANTIATE(Bfloat16)
#undef INSTANTIATE

}  // namespace masktools
