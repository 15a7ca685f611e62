#include "steps/pool.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "simd/bfloat16_vector.h"
#include "simd/epilogue.h"
#include "simd/pixels.h"

namespace masktools {
namespace {

constexpr std::int64_t kLargest = std::int64_t{1} << 28;  // of any number that tells a window
constexpr std::int64_t kWidest = std::int64_t{1} << 16;   // see check_window
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

// to[i] = combine of from[i], from[stride + i] ... for i < n, of `count` rows: kCount of them or,
// where that is 0, any number.
template <class Combine, int kCount, class T>
void combine_rows(const T* from, std::int64_t stride, std::int64_t count, float* to,
                  std::int64_t n) {
  const Combine combine;
  const std::int64_t rows = kCount ? kCount : count;
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    Vector v = load(from + i);
    for (std::int64_t r = 1; r < rows; ++r) v = combine(v, load(from + r * stride + i));
    store(to + i, v);
  }
  if (i == n) return;
  Vector v = load(from + i, n - i);
  for (std::int64_t r = 1; r < rows; ++r) v = combine(v, load(from + r * stride + i, n - i));
  store(to + i, v, n - i);
}

template <class Combine, class T>
void combine_rows(const T* from, std::int64_t stride, std::int64_t count, float* to,
                  std::int64_t n) {
  if (count == 2) return combine_rows<Combine, 2>(from, stride, count, to, n);
  if (count == 3) return combine_rows<Combine, 3>(from, stride, count, to, n);
  combine_rows<Combine, 0>(from, stride, count, to, n);
}

// The same for pixels of n samples: next to each other in `to`, any distances in the rows.
template <class Combine, class T>
void combine_rows(const T* from, std::int64_t stride, std::int64_t count, std::int64_t pixel_stride,
                  std::int64_t sample_stride, float* to, std::int64_t pixels, std::int64_t n) {
  const bool runs = sample_stride == 1 || n == 1;
  if (runs && pixel_stride == n) return combine_rows<Combine>(from, stride, count, to, pixels * n);
  for (std::int64_t k = 0; k < pixels; ++k, from += pixel_stride, to += n) {
    if (runs) {
      combine_rows<Combine>(from, stride, count, to, n);
      continue;
    }
    for (std::int64_t i = 0; i < n; ++i) {
      combine_rows<Combine>(from + i * sample_stride, stride, count, to + i, 1);
    }
  }
}

// Where windows lie in a row of pixels of n samples.
struct Windows {
  std::int64_t step, dilation, taps;  // in pixels
};

// to[k] = combine of the taps of window k, for pixels of kSamples samples.
template <class Combine, int kSamples, int kTaps>
void combine_short_pixels(const float* from, const Windows& w, float* to, std::int64_t pixels) {
  typedef float Pixel __attribute__((vector_size(4 * kSamples)));
  const std::int64_t taps = kTaps ? kTaps : w.taps;
  for (std::int64_t k = 0; k < pixels; ++k, from += w.step * kSamples, to += kSamples) {
    Pixel a, b;
    std::memcpy(&a, from, sizeof a);
    for (std::int64_t t = 1; t < taps; ++t) {
      std::memcpy(&b, from + t * w.dilation * kSamples, sizeof b);
      a = Combine()(a, b);
    }
    std::memcpy(to, &a, sizeof a);
  }
}

template <class Combine, int kSamples>
void combine_short_pixels(const float* from, const Windows& w, float* to, std::int64_t pixels) {
  if (w.taps == 2) return combine_short_pixels<Combine, kSamples, 2>(from, w, to, pixels);
  if (w.taps == 3) return combine_short_pixels<Combine, kSamples, 3>(from, w, to, pixels);
  combine_short_pixels<Combine, kSamples, 0>(from, w, to, pixels);
}

// The same for pixels of one sample, with windows at neighbouring pixels.
template <class Combine>
void combine_neighbours(const float* from, const Windows& w, float* to, std::int64_t pixels) {
  const Combine combine;
  for (std::int64_t k = 0; k < pixels; k += kLanes) {
    const std::int64_t lanes = std::min<std::int64_t>(pixels - k, kLanes);
    Vector v = load(from + k, lanes);
    for (std::int64_t t = 1; t < w.taps; ++t) {
      v = combine(v, load(from + k + t * w.dilation, lanes));
    }
    store(to + k, v, lanes);
  }
}

// The same for any step, one tap after the other: kStep, if not 0, is the step.
template <class Combine, int kStep>
void combine_samples(const float* from, const Windows& w, float* to, std::int64_t pixels) {
  const std::int64_t step = kStep ? kStep : w.step;
  for (std::int64_t k = 0; k < pixels; ++k) to[k] = from[k * step];
  for (std::int64_t t = 1; t < w.taps; ++t) {
    const float* tap = from + t * w.dilation;
    for (std::int64_t k = 0; k < pixels; ++k) to[k] = Combine()(to[k], tap[k * step]);
  }
}

// The same for pixels of n samples.
template <class Combine>
void combine_windows(const float* from, const Windows& w, float* to, std::int64_t pixels,
                     std::int64_t n) {
  if (n == 1) {
    if (w.step == 1) return combine_neighbours<Combine>(from, w, to, pixels);
    if (w.step == 2) return combine_samples<Combine, 2>(from, w, to, pixels);
    return combine_samples<Combine, 0>(from, w, to, pixels);
  }
  if (n == 4) return combine_short_pixels<Combine, 4>(from, w, to, pixels);
  if (n == 8) return combine_short_pixels<Combine, 8>(from, w, to, pixels);
  for (std::int64_t k = 0; k < pixels; ++k, from += w.step * n, to += n) {
    combine_rows<Combine>(from, w.dilation * n, w.taps, to, n);
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

// An item is some rows (c, y) of the output, made part by part: some pixels of some samples. The
// rows of the input under a part are combined first, as floats that lie next to each other; then
// the pixels of each window.
template <class T, class Combine, bool kAverage>
class Pool final : public Operation {
 public:
  Pool(const View& x, const View& y, const Window& window) : x_(x), y_(y), window_(window) {
    rows_ = y.shape[kChannel] * y.shape[kY];
    if (y.elements() == 0) return;
    const std::int64_t row = y.shape[kSample] * y.shape[kX];
    items_ = std::min(Cut(rows_, row * (window.kernel[0] + window.kernel[1])).items(), rows_);
    samples_ = std::min(kSamples, y.shape[kSample]);
    pixels_ =
        std::min(std::max<std::int64_t>(kPart / samples_ / window.strides[1], 1), y.shape[kX]);
    columns_ = reach(pixels_) * samples_;
    if (!kAverage) return;
    const auto& c = window.counted;
    count_y_ = counts(y.shape[kY], window.kernel[0], window.strides[0], window.dilations[0],
                      window.pads[0], x.shape[kY], c[0], c[2]);
    count_x_ = counts(y.shape[kX], window.kernel[1], window.strides[1], window.dilations[1],
                      window.pads[1], x.shape[kX], c[1], c[3]);
  }

  std::int64_t items() const override { return items_; }

  std::int64_t scratch_bytes() const override {
    return (columns_ + pixels_ * samples_) * static_cast<std::int64_t>(sizeof(float));
  }

  void execute(std::int64_t item, const Buffers& buffers, std::byte* scratch) const override {
    T* arena = reinterpret_cast<T*>(buffers.arena);
    float* sums = reinterpret_cast<float*>(scratch);
    const std::int64_t last = part_start(item + 1, items_, rows_);
    for (std::int64_t row = part_start(item, items_, rows_); row < last; ++row) {
      const std::int64_t c = row / y_.shape[kY], y = row % y_.shape[kY];
      for (std::int64_t n = 0; n < y_.shape[kSample]; n += samples_) {
        const std::int64_t samples = std::min(samples_, y_.shape[kSample] - n);
        const T* from = arena + x_.offset + n * x_.strides[kSample] + c * x_.strides[kChannel];
        T* to = arena + y_.offset + n * y_.strides[kSample] + c * y_.strides[kChannel] +
                y * y_.strides[kY];
        for (std::int64_t x = 0; x < y_.shape[kX]; x += pixels_) {
          const std::int64_t pixels = std::min(pixels_, y_.shape[kX] - x);
          combine(from, y, x, pixels, samples, sums, sums + pixels_ * samples_);
          write(sums, y, x, pixels, samples, to + x * y_.strides[kX]);
        }
      }
    }
  }

 private:
  static constexpr std::int64_t kSamples = 256;
  static constexpr std::int64_t kPart = 2048;  // elements of a part of the input's row, about

  // Combines the windows of pixels [x0, x0 + pixels) of row y in `sums`. Columns outside the image
  // are what changes no window.
  void combine(const T* from, std::int64_t y, std::int64_t x0, std::int64_t pixels,
               std::int64_t samples, float* sums, float* columns) const {
    const Windows windows = {window_.strides[1], window_.dilations[1], window_.kernel[1]};
    const std::int64_t start = x0 * windows.step - window_.pads[1];
    const std::int64_t end = start + reach(pixels);
    const std::int64_t in_y = y * window_.strides[0] - window_.pads[0];
    const Span taps = inside(in_y, window_.dilations[0], x_.shape[kY], window_.kernel[0]);
    const bool none = taps.first >= taps.last;
    const std::int64_t first = none ? end : std::clamp<std::int64_t>(0, start, end);
    const std::int64_t last = std::clamp(x_.shape[kX], first, end);
    std::fill(columns, columns + (first - start) * samples, Combine::kStart);
    if (first < last) {
      combine_rows<Combine>(from + (in_y + taps.first * window_.dilations[0]) * x_.strides[kY] +
                                first * x_.strides[kX],
                            window_.dilations[0] * x_.strides[kY], taps.last - taps.first,
                            x_.strides[kX], x_.strides[kSample],
                            columns + (first - start) * samples, last - first, samples);
    }
    std::fill(columns + (last - start) * samples, columns + (end - start) * samples,
              Combine::kStart);
    combine_windows<Combine>(columns, windows, sums, pixels, samples);
  }

  // Pixels of the input that the windows of neighbouring pixels reach over.
  std::int64_t reach(std::int64_t pixels) const {
    return (pixels - 1) * window_.strides[1] + (window_.kernel[1] - 1) * window_.dilations[1] + 1;
  }

  void write(float* sums, std::int64_t y, std::int64_t x0, std::int64_t pixels,
             std::int64_t samples, T* to) const {
    for (std::int64_t k = 0; kAverage && k < pixels; ++k) {
      const float taps = count_y_[y] * count_x_[x0 + k];
      for (std::int64_t i = 0; i < samples; ++i) sums[k * samples + i] /= taps;
    }
    const std::int64_t stride = y_.strides[kSample], pixel = y_.strides[kX];
    if ((stride == 1 || samples == 1) && pixel == samples) {
      write_run(sums, to, pixels * samples);
      return;
    }
    for (std::int64_t k = 0; k < pixels; ++k, sums += samples, to += pixel) {
      for (std::int64_t i = 0; i < samples; ++i) to[i * stride] = static_cast<T>(sums[i]);
    }
  }

  static void write_run(const float* sums, T* to, std::int64_t n) {
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(to + i, load(sums + i));
    for (; i < n; ++i) to[i] = static_cast<T>(sums[i]);
  }

  const View x_, y_;
  const Window window_;
  std::int64_t rows_ = 0;
  std::int64_t items_ = 0;
  std::int64_t samples_ = 0, pixels_ = 0;  // of a part
  std::int64_t columns_ = 0;               // floats of a part of the input's row
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
  // Scratch holds the pixels that a window reaches over, in the image or not.
  if ((w.kernel[1] - 1) * w.dilations[1] > std::max(kWidest, x.shape[kX])) {
    throw std::invalid_argument("pool: a window is wider than the image and than 65536 pixels");
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
