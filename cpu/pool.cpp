#include "pool.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "bfloat16.h"
#include "epilogue.h"
#include "pixels.h"

namespace masktools {
namespace {

constexpr std::int64_t kLargest = std::int64_t{1} << 28;  // of any number that tells a window
constexpr std::int64_t kRow = 1024;                       // floats that an item sums up at a time
enum Axis { kSample, kChannel, kY, kX };

struct Maximum {
  static constexpr float kStart = -std::numeric_limits<float>::infinity();
  float operator()(float a, float b) const { return maximum(a, b); }
};

struct Sum {
  static constexpr float kStart = 0.0f;
  float operator()(float a, float b) const { return a + b; }
};

// to[i] = combine(to[i], from[i * stride]). Strides of 1 and 2 become vector code.
template <class T, class Combine>
void combine_row(const T* from, std::int64_t stride, float* to, std::int64_t n) {
  const Combine combine;
  if (stride == 1) {
    for (std::int64_t i = 0; i < n; ++i) to[i] = combine(to[i], static_cast<float>(from[i]));
  } else if (stride == 2) {
    for (std::int64_t i = 0; i < n; ++i) to[i] = combine(to[i], static_cast<float>(from[2 * i]));
  } else {
    for (std::int64_t i = 0; i < n; ++i) {
      to[i] = combine(to[i], static_cast<float>(from[i * stride]));
    }
  }
}

// The taps that are counted at each position along one axis.
std::vector<float> counts(std::int64_t positions, std::int64_t kernel, std::int64_t stride,
                          std::int64_t dilation, std::int64_t pad, std::int64_t size,
                          std::int64_t before, std::int64_t after) {
  std::vector<float> result(positions);
  for (std::int64_t p = 0; p < positions; ++p) {
    const Span taps = inside(p * stride - pad + before, dilation, size + before + after, kernel);
    result[p] = static_cast<float>(taps.last - taps.first);
  }
  return result;
}

// An item is some rows (c, y) of the output. A row is summed up in a buffer tap by tap, each along
// the axis whose elements are neighbours: samples where there are many, else x.
template <class T, class Combine, bool kAverage>
class Pool final : public Operation {
 public:
  Pool(const View& x, const View& y, const Window& window) : x_(x), y_(y), window_(window) {
    along_x_ = y.shape[kSample] < kLanes && y.shape[kSample] < y.shape[kX];
    rows_ = y.shape[kChannel] * y.shape[kY];
    const std::int64_t taps = window.kernel[0] * window.kernel[1];
    const Cut cut(rows_, y.shape[kSample] * y.shape[kX] * std::min<std::int64_t>(taps, 8));
    items_ = rows_ == 0 || y.elements() == 0 ? 0 : std::min(cut.items(), rows_);
    if (!kAverage) return;
    const auto& c = window.counted;
    count_y_ = counts(y.shape[kY], window.kernel[0], window.strides[0], window.dilations[0],
                      window.pads[0], x.shape[kY], c[0], c[2]);
    count_x_ = counts(y.shape[kX], window.kernel[1], window.strides[1], window.dilations[1],
                      window.pads[1], x.shape[kX], c[1], c[3]);
  }

  std::int64_t items() const override { return items_; }

  void execute(std::int64_t item, const Buffers& buffers, std::byte*) const override {
    T* arena = reinterpret_cast<T*>(buffers.arena);
    const std::int64_t last = part_start(item + 1, items_, rows_);
    for (std::int64_t row = part_start(item, items_, rows_); row < last; ++row) {
      const std::int64_t c = row / y_.shape[kY], y = row % y_.shape[kY];
      if (along_x_) {
        for (std::int64_t n = 0; n < y_.shape[kSample]; ++n) {
          for (std::int64_t x = 0; x < y_.shape[kX]; x += kRow) {
            pool_pixels(arena, c, y, x, std::min(kRow, y_.shape[kX] - x), n);
          }
        }
      } else {
        for (std::int64_t x = 0; x < y_.shape[kX]; ++x) {
          for (std::int64_t n = 0; n < y_.shape[kSample]; n += kRow) {
            pool_samples(arena, c, y, x, n, std::min(kRow, y_.shape[kSample] - n));
          }
        }
      }
    }
  }

 private:
  // Pixels [x0, x0 + count) of sample n.
  void pool_pixels(T* arena, std::int64_t c, std::int64_t y, std::int64_t x0, std::int64_t count,
                   std::int64_t n) const {
    float sums[kRow];
    std::fill(sums, sums + count, Combine::kStart);
    const T* from = arena + x_.offset + n * x_.strides[kSample] + c * x_.strides[kChannel];
    const std::int64_t stride = window_.strides[1] * x_.strides[kX];
    for_each_tap_row(y, [&](std::int64_t in_y) {
      for (std::int64_t tap = 0; tap < window_.kernel[1]; ++tap) {
        const std::int64_t in_x =
            x0 * window_.strides[1] + tap * window_.dilations[1] - window_.pads[1];
        const Span valid = inside(in_x, window_.strides[1], x_.shape[kX], count);
        combine_row<T, Combine>(
            from + (in_y * x_.strides[kY] + in_x * x_.strides[kX] + valid.first * stride), stride,
            sums + valid.first, valid.last - valid.first);
      }
    });
    T* to = arena + y_.offset + n * y_.strides[kSample] + c * y_.strides[kChannel] +
            y * y_.strides[kY] + x0 * y_.strides[kX];
    for (std::int64_t i = 0; i < count; ++i) {
      if (kAverage) sums[i] /= count_y_[y] * count_x_[x0 + i];
      to[i * y_.strides[kX]] = static_cast<T>(sums[i]);
    }
  }

  // Samples [n0, n0 + count) of one pixel.
  void pool_samples(T* arena, std::int64_t c, std::int64_t y, std::int64_t x, std::int64_t n0,
                    std::int64_t count) const {
    float sums[kRow];
    std::fill(sums, sums + count, Combine::kStart);
    const T* from = arena + x_.offset + n0 * x_.strides[kSample] + c * x_.strides[kChannel];
    const std::int64_t in_x0 = x * window_.strides[1] - window_.pads[1];
    const Span taps = inside(in_x0, window_.dilations[1], x_.shape[kX], window_.kernel[1]);
    for_each_tap_row(y, [&](std::int64_t in_y) {
      for (std::int64_t tap = taps.first; tap < taps.last; ++tap) {
        const std::int64_t in_x = in_x0 + tap * window_.dilations[1];
        combine_row<T, Combine>(from + (in_y * x_.strides[kY] + in_x * x_.strides[kX]),
                                x_.strides[kSample], sums, count);
      }
    });
    T* to = arena + y_.offset + n0 * y_.strides[kSample] + c * y_.strides[kChannel] +
            y * y_.strides[kY] + x * y_.strides[kX];
    const float taps_counted = kAverage ? count_y_[y] * count_x_[x] : 1.0f;
    for (std::int64_t i = 0; i < count; ++i) {
      const float value = kAverage ? sums[i] / taps_counted : sums[i];
      to[i * y_.strides[kSample]] = static_cast<T>(value);
    }
  }

  // Calls tap_row(in_y) for the rows of x under row y of the windows.
  template <class TapRow>
  void for_each_tap_row(std::int64_t y, const TapRow& tap_row) const {
    const std::int64_t in_y0 = y * window_.strides[0] - window_.pads[0];
    const Span taps = inside(in_y0, window_.dilations[0], x_.shape[kY], window_.kernel[0]);
    for (std::int64_t tap = taps.first; tap < taps.last; ++tap) {
      tap_row(in_y0 + tap * window_.dilations[0]);
    }
  }

  const View x_, y_;
  const Window window_;
  bool along_x_ = false;
  std::int64_t rows_ = 0;
  std::int64_t items_ = 0;
  std::vector<float> count_y_, count_x_;
};

void check_window(const Window& w, const View& x, const View& y) {
  const auto within = [](const auto& numbers, std::int64_t least) {
    return std::all_of(numbers.begin(), numbers.end(),
                       [&](std::int64_t n) { return n >= least && n <= kLargest; });
  };
  if (!within(w.kernel, 1) || !within(w.strides, 1) || !within(w.dilations, 1) ||
      !within(w.pads, 0) || !within(w.counted, 0)) {
    throw std::invalid_argument("pool: impossible window");
  }
  if (x.rank != 4 || y.rank != 4 || x.shape[kSample] != y.shape[kSample] ||
      x.shape[kChannel] != y.shape[kChannel]) {
    throw std::invalid_argument("pool: expected x and y of (N, C, H, W) and (N, C, H', W')");
  }
  for (int axis = 0; axis < 2; ++axis) {
    if (x.shape[axis + 2] > kLargest || y.shape[axis + 2] > kLargest) {
      throw std::invalid_argument("pool: impossible image");
    }
  }
}

}  // namespace

template <class T>
std::unique_ptr<const Operation> make_pool(PoolKind kind, const View& x, const View& y,
                                           const Window& window, std::int64_t arena_elements) {
  check_readable(x, arena_elements, "pool: x");
  check_writable(y, arena_elements, "pool: y");
  check_window(window, x, y);
  if (kind == PoolKind::kMax) return std::make_unique<Pool<T, Maximum, false>>(x, y, window);
  return std::make_unique<Pool<T, Sum, true>>(x, y, window);
}

template std::unique_ptr<const Operation> make_pool<float>(PoolKind, const View&, const View&,
                                                           const Window&, std::int64_t);
template std::unique_ptr<const Operation> make_pool<Bfloat16>(PoolKind, const View&, const View&,
                                                              const Window&, std::int64_t);

}  // namespace masktools
