#include "steps/reduction.h"

#include <algorithm>
#include <stdexcept>
#include <type_traits>

#include "simd/bfloat16.h"
#include "simd/functions.h"
#include "steps/lanes.h"

namespace masktools {
namespace {

// to[i] += from[i * stride] for i < n, at most kBlock; `to` has room for whole vectors, and keeps
// what it has behind n.
template <class T>
void add_row(const T* from, std::int64_t stride, float* to, std::int64_t n) {
  if constexpr (std::is_same_v<T, float>) {
    if (stride == 1) {
      for (std::int64_t i = 0; i < n; i += kLanes) {
        const Vector row = i + kLanes <= n ? load(from + i) : load(from + i, n - i);
        store(to + i, load(to + i) + row);
      }
      return;
    }
  }
  float buffer[kBlock];
  const float* x = as_floats(from, stride, n, buffer);
  for (std::int64_t i = 0; i < n; ++i) to[i] += x[i];
}

// The sum of n elements, in kBlock lanes.
template <class T>
float sum_row(const T* from, std::int64_t stride, std::int64_t n) {
  float lanes[kBlock] = {};
  for (std::int64_t i = 0; i < n; i += kBlock) {
    add_row(from + i * stride, stride, lanes, std::min(kBlock, n - i));
  }
  for (std::int64_t half = kBlock / 2; half > 0; half /= 2) {
    for (std::int64_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// An item is a part of the channels. Many partial sums are kept and then added, which keeps
// rounding errors small.
template <class T>
class Mean final : public Operation {
 public:
  Mean(const View& x, const View& y, std::int64_t pixels)
      : y_(y), x_(x), image_({image_of(x)}), pixels_(pixels) {
    elements_ = image_.outer() * image_.inner();
    const std::int64_t channels = y.shape[1];
    items_ = y.elements() == 0
                 ? 0
                 : Cut(channels, y.shape[0] * std::max<std::int64_t>(elements_, 1)).items();
    items_ = std::min(items_, channels);
  }

  std::int64_t items() const override { return items_; }

  void execute(std::int64_t item, const Buffers& buffers, std::byte*) const override {
    T* arena = reinterpret_cast<T*>(buffers.arena);
    const std::int64_t last = part_start(item + 1, items_, y_.shape[1]);
    for (std::int64_t c = part_start(item, items_, y_.shape[1]); c < last; ++c) {
      const T* from = arena + x_.offset + c * x_.strides[1];
      T* to = arena + y_.offset + c * y_.strides[1];
      for (std::int64_t n = 0; n < y_.shape[0]; n += kBlock) {
        mean(from + n * x_.strides[0], to + n * y_.strides[0], std::min(kBlock, y_.shape[0] - n));
      }
    }
  }

 private:
  // The view of one image, from 0.
  static View image_of(const View& x) {
    View image{0, x.rank - 2, {}, {}};
    std::copy(x.shape.begin() + 2, x.shape.begin() + x.rank, image.shape.begin());
    std::copy(x.strides.begin() + 2, x.strides.begin() + x.rank, image.strides.begin());
    return image;
  }

  void mean(const T* from, T* to, std::int64_t samples) const {
    float sums[kBlock] = {};
    if (image_.inner_stride(0) == samples && (samples == 1 || x_.strides[0] == 1)) {
      sum_rows_of_neighbours(from, samples, sums);
    } else {
      sum_rows(from, samples, sums);
    }
    for (std::int64_t n = 0; n < samples; ++n) {
      to[n * y_.strides[0]] = static_cast<T>(sums[n] / static_cast<float>(pixels_));
    }
  }

  // Where a row's samples and pixels all lie next to each other, lane i of what is summed up side
  // by side is one of sample i % samples.
  void sum_rows_of_neighbours(const T* from, std::int64_t samples, float* sums) const {
    float lanes[kBlock] = {};
    std::int64_t pixels = std::min(kBlock / samples, image_.inner());
    const std::int64_t width = pixels * samples, row = image_.inner() * samples;
    for_each_row<1>(image_, 0, rows(), [&](const std::array<std::int64_t, 1>& at) {
      for (std::int64_t i = 0; i < row; i += width) {
        add_row(from + at[0] + i, 1, lanes, std::min(width, row - i));
      }
    });
    for (; pixels > 1; pixels = (pixels + 1) / 2) {
      const std::int64_t half = (pixels + 1) / 2;
      add_row(lanes + half * samples, 1, lanes, (pixels - half) * samples);
    }
    std::copy_n(lanes, samples, sums);
  }

  void sum_rows(const T* from, std::int64_t samples, float* sums) const {
    const std::int64_t row = image_.inner(), stride = image_.inner_stride(0);
    for_each_row<1>(image_, 0, rows(), [&](const std::array<std::int64_t, 1>& at) {
      if (samples < kLanes) {
        for (std::int64_t n = 0; n < samples; ++n) {
          sums[n] += sum_row(from + at[0] + n * x_.strides[0], stride, row);
        }
        return;
      }
      for (std::int64_t i = 0; i < row; i += kBlock) {
        float part[kBlock] = {};
        for (std::int64_t j = i; j < std::min(i + kBlock, row); ++j) {
          add_row(from + at[0] + j * stride, x_.strides[0], part, samples);
        }
        add_row(part, 1, sums, samples);
      }
    });
  }

  std::int64_t rows() const { return elements_ != 0 ? image_.outer() : 0; }

  const View y_, x_;
  const Nest<1> image_;
  const std::int64_t pixels_;
  std::int64_t elements_ = 0;
  std::int64_t items_ = 0;
};

// Lanes are the results of the innermost other axis: all that is done is done to kBlock of them
// side by side. Where there are too few, the axis itself is worked on in blocks.
template <class T>
class Softmax final : public Operation {
 public:
  Softmax(const View& x, const View& y, int axis, bool logarithm)
      : logarithm_(logarithm),
        size_(x.shape[axis]),
        x_stride_(x.strides[axis]),
        y_stride_(y.strides[axis]),
        lanes_({without(y, axis), without(x, axis)}, size_) {}

  std::int64_t items() const override { return lanes_.items(); }

  void execute(std::int64_t item, const Buffers& buffers, std::byte*) const override {
    T* arena = reinterpret_cast<T*>(buffers.arena);
    lanes_.for_each(item, [&](const std::array<std::int64_t, 2>& at, std::int64_t lanes) {
      softmax(arena + at[1], arena + at[0], lanes);
    });
  }

 private:
  // One element of `axis`.
  static View without(View view, int axis) {
    view.shape[axis] = 1;
    return view;
  }

  void softmax(const T* x, T* y, std::int64_t lanes) const {
    if (one_by_one(lanes, lanes_.stride(1), size_, x_stride_)) {
      for (std::int64_t i = 0; i < lanes; ++i) {
        along_axis(x + i * lanes_.stride(1), y + i * lanes_.stride(0));
      }
    } else {
      along_lanes(x, y, lanes);
    }
  }

  void along_lanes(const T* x, T* y, std::int64_t lanes) const {
    const std::int64_t x_lane = lanes_.stride(1), y_lane = lanes_.stride(0);
    float highest[kBlock], sum[kBlock] = {};
    for (std::int64_t i = 0; i < lanes; ++i) highest[i] = static_cast<float>(x[i * x_lane]);
    for (std::int64_t k = 1; k < size_; ++k) {
      for (std::int64_t i = 0; i < lanes; ++i) {
        highest[i] = maximum(highest[i], static_cast<float>(x[k * x_stride_ + i * x_lane]));
      }
    }
    // In float until the end: y may hold fewer bits. The powers are made twice, which costs less
    // than to keep them.
    const auto below = [&](std::int64_t k, float* values) {
      const float* from = as_floats(x + k * x_stride_, x_lane, lanes, values);
      for (std::int64_t i = 0; i < lanes; ++i) values[i] = from[i] - highest[i];
    };
    float values[kBlock];
    for (std::int64_t k = 0; k < size_; ++k) {
      below(k, values);
      exponentials(values, lanes);
      for (std::int64_t i = 0; i < lanes; ++i) sum[i] += values[i];
    }
    if (logarithm_) activate(kLog, sum, lanes);
    for (std::int64_t k = 0; k < size_; ++k) {
      below(k, values);
      if (!logarithm_) exponentials(values, lanes);
      for (std::int64_t i = 0; i < lanes; ++i) {
        y[k * y_stride_ + i * y_lane] =
            static_cast<T>(logarithm_ ? values[i] - sum[i] : values[i] / sum[i]);
      }
    }
  }

  void along_axis(const T* x, T* y) const {
    float highest = static_cast<float>(x[0]);
    for (std::int64_t k = 1; k < size_; ++k) {
      highest = maximum(highest, static_cast<float>(x[k * x_stride_]));
    }
    const auto below = [&](std::int64_t k, std::int64_t count, float* values) {
      const float* from = as_floats(x + k * x_stride_, x_stride_, count, values);
      for (std::int64_t i = 0; i < count; ++i) values[i] = from[i] - highest;
    };
    float values[kBlock], sum = 0;
    for (std::int64_t k = 0; k < size_; k += kBlock) {
      const std::int64_t count = std::min(kBlock, size_ - k);
      below(k, count, values);
      exponentials(values, count);
      sum += sum_row(values, 1, count);
    }
    if (logarithm_) activate(kLog, &sum, 1);
    for (std::int64_t k = 0; k < size_; k += kBlock) {
      const std::int64_t count = std::min(kBlock, size_ - k);
      below(k, count, values);
      if (!logarithm_) exponentials(values, count);
      for (std::int64_t i = 0; i < count; ++i) {
        y[(k + i) * y_stride_] = static_cast<T>(logarithm_ ? values[i] - sum : values[i] / sum);
      }
    }
  }

  static void exponentials(float* values, std::int64_t n) {
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(values + i, exponential(load(values + i)));
    for (; i < n; ++i) values[i] = exponential(values[i]);
  }

  static constexpr Activation kLog{Activation::Op::kLog};

  const bool logarithm_;
  const std::int64_t size_, x_stride_, y_stride_;
  const Lanes<2> lanes_;
};

}  // namespace

template <class T>
std::unique_ptr<const Operation> make_mean(const View& x, const View& y, std::int64_t pixels,
                                           std::int64_t arena_elements) {
  check_readable(x, arena_elements, "mean: x");
  check_writable(y, arena_elements, "mean: y");
  View expected = x;
  for (int axis = 2; axis < x.rank; ++axis) expected.shape[axis] = 1;
  if (x.rank < 2) throw std::invalid_argument("mean: expected x of (N, C, ...)");
  check_same_shape(expected, y, "mean: (N, C, 1...)");
  if (pixels < 0) throw std::invalid_argument("mean: impossible number of pixels");
  return std::make_unique<Mean<T>>(x, y, pixels);
}

template <class T>
std::unique_ptr<const Operation> make_softmax(const View& x, const View& y, int axis,
                                              bool logarithm, std::int64_t arena_elements) {
  check_readable(x, arena_elements, "softmax: x");
  check_writable(y, arena_elements, "softmax: y");
  check_same_shape(x, y, "softmax");
  if (axis < 0 || axis >= x.rank) throw std::invalid_argument("softmax: impossible axis");
  return std::make_unique<Softmax<T>>(x, y, axis, logarithm);
}

#define INSTANTIATE(T)                                                                           \
  template std::unique_ptr<const Operation> make_mean<T>(const View&, const View&, std::int64_t, \
                                                         std::int64_t);                          \
  template std::unique_ptr<const Operation> make_softmax<T>(const View&, const View&, int, bool, \
                                                            std::int64_t);
INSTANTIATE(float)
INSTANTIATE(Bfloat16)
#undef INSTANTIATE

}  // namespace masktools
