#include "pool.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "bfloat16_vector.h"
#include "epilogue.h"
#include "pixels.h"

namespace masktools {
namespace {

constexpr std::int64_t kLargest = std::int64_t{1} << 28;  // of any number that tells a window
constexpr std::int64_t kRow = 2048;  // floats of the buffer: a part of the first cache
enum Axis { kSample, kChannel, kY, kX };

struct Maximum {
  static constexpr float kStart = -std::numeric_limits<float>::infinity();
  template <class V>
  V operator()(V a, V b) const {
    return maximum(a, b);
  }
};

struct Sum {
  static constexpr float kStart = 0.0f;
  template <class V>
  V operator()(V a, V b) const {
    return a + b;
  }
};

// to[i] = combine(to[i], from[i]) for i < n.
template <class T, class Combine>
void combine_run(const T* from, float* to, std::int64_t n) {
  const Combine combine;
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(to + i, combine(load(to + i), load(from + i)));
  for (; i < n; ++i) to[i] = combine(to[i], static_cast<float>(from[i]));
}

// The same for `pixels` runs of n elements each, next to each other in `to`, `stride` apart in
// `from`. kCount = n, or 0 for a number known at run time only.
template <class T, class Combine, int kCount>
void combine_runs(const T* from, std::int64_t stride, float* to, std::int64_t pixels,
                  std::int64_t n) {
  const std::int64_t count = kCount != 0 ? kCount : n;
  for (std::int64_t k = 0; k < pixels; ++k) {
    if constexpr (kCount == 0 || kCount >= kLanes) {
      combine_run<T, Combine>(from + k * stride, to + k * count, count);
    } else {
      for (std::int64_t i = 0; i < count; ++i) {
        to[k * count + i] = Combine()(to[k * count + i], static_cast<float>(from[k * stride + i]));
      }
    }
  }
}

// The same for samples `sample_stride` apart. What is contiguous, or of a constant length or
// stride, becomes vector code.
template <class T, class Combine>
void combine_pixels(const T* from, std::int64_t stride, std::int64_t sample_stride, float* to,
                    std::int64_t pixels, std::int64_t samples) {
  const Combine combine;
  if (samples == 1 && stride == 2) {
    for (std::int64_t k = 0; k < pixels; ++k) {
      to[k] = combine(to[k], static_cast<float>(from[2 * k]));
    }
  } else if (samples > 1 && sample_stride != 1) {
    for (std::int64_t k = 0; k < pixels; ++k) {
      for (std::int64_t i = 0; i < samples; ++i) {
        float& sum = to[k * samples + i];
        sum = combine(sum, static_cast<float>(from[k * stride + i * sample_stride]));
      }
    }
  } else if (stride == samples) {
    combine_run<T, Combine>(from, to, pixels * samples);
  } else if (samples == 4) {
    combine_runs<T, Combine, 4>(from, stride, to, pixels, samples);
  } else if (samples == 8) {
    combine_runs<T, Combine, 8>(from, stride, to, pixels, samples);
  } else {
    combine_runs<T, Combine, 0>(from, stride, to, pixels, samples);
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

// An item is some rows (c, y) of the output. A part of a row, (x, n), is combined in a buffer tap
// by tap.
template <class T, class Combine, bool kAverage>
class Pool final : public Operation {
 public:
  Pool(const View& x, const View& y, const Window& window) : x_(x), y_(y), window_(window) {
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
    const std::int64_t samples = std::min(kRow, y_.shape[kSample]), pixels = kRow / samples;
    for (std::int64_t row = part_start(item, items_, rows_); row < last; ++row) {
      const std::int64_t c = row / y_.shape[kY], y = row % y_.shape[kY];
      for (std::int64_t n = 0; n < y_.shape[kSample]; n += samples) {
        for (std::int64_t x = 0; x < y_.shape[kX]; x += pixels) {
          pool_part(arena, c, y, x, std::min(pixels, y_.shape[kX] - x), n,
                    std::min(samples, y_.shape[kSample] - n));
        }
      }
    }
  }

 private:
  // Pixels [x0, x0 + pixels) of samples [n0, n0 + samples).
  void pool_part(T* arena, std::int64_t c, std::int64_t y, std::int64_t x0, std::int64_t pixels,
                 std::int64_t n0, std::int64_t samples) const {
    alignas(64) float sums[kRow];
    std::fill(sums, sums + pixels * samples, Combine::kStart);
    const T* from = arena + x_.offset + n0 * x_.strides[kSample] + c * x_.strides[kChannel];
    const std::int64_t stride = window_.strides[1] * x_.strides[kX];
    for_each_tap_row(y, [&](std::int64_t in_y) {
      for (std::int64_t tap = 0; tap < window_.kernel[1]; ++tap) {
        const std::int64_t in_x =
            x0 * window_.strides[1] + tap * window_.dilations[1] - window_.pads[1];
        const Span valid = inside(in_x, window_.strides[1], x_.shape[kX], pixels);
        if (valid.first >= valid.last) continue;
        combine_pixels<T, Combine>(
            from + (in_y * x_.strides[kY] + in_x * x_.strides[kX] + valid.first * stride), stride,
            x_.strides[kSample], sums + valid.first * samples, valid.last - valid.first, samples);
      }
    });
    T* to = arena + y_.offset + n0 * y_.strides[kSample] + c * y_.strides[kChannel] +
            y * y_.strides[kY] + x0 * y_.strides[kX];
    for (std::int64_t k = 0; k < pixels; ++k) {
      const float taps = kAverage ? count_y_[y] * count_x_[x0 + k] : 1.0f;
      write(sums + k * samples, taps, to + k * y_.strides[kX], samples);
    }
  }

  void write(const float* sums, float taps, T* to, std::int64_t samples) const {
    const std::int64_t stride = y_.strides[kSample];
    if (stride == 1) {
      for (std::int64_t i = 0; i < samples; ++i) {
        to[i] = static_cast<T>(kAverage ? sums[i] / taps : sums[i]);
      }
    } else {
      for (std::int64_t i = 0; i < samples; ++i) {
        to[i * stride] = static_cast<T>(kAverage ? sums[i] / taps : sums[i]);
      }
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
