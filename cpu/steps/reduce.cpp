#include "steps/reduce.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "simd/bfloat16.h"
#include "simd/epilogue.h"
#include "steps/lanes.h"

namespace masktools {
namespace {

struct Highest {
  static constexpr float kFirst = -std::numeric_limits<float>::infinity();
  static float join(float a, float b) { return maximum(a, b); }
};

struct Lowest {
  static constexpr float kFirst = std::numeric_limits<float>::infinity();
  static float join(float a, float b) { return a < b ? a : a != a ? a : b; }
};

float same(float x, std::int64_t) { return x; }
float squared(float x, std::int64_t) { return x * x; }

// One element along each axis that `keep` does not name.
template <class Keep>
View part_of(View view, const Keep& keep) {
  for (int axis = 0; axis < view.rank; ++axis) {
    if (!keep(axis)) view.shape[axis] = 1;
  }
  return view;
}

template <class T>
class Reduce final : public Operation {
 public:
  Reduce(Reduction reduction, const View& x, const View& y)
      : reduction_(reduction),
        along_({from_zero(part_of(x, [&](int axis) { return y.shape[axis] == 1; }))}),
        lanes_({y, part_of(x, [&](int axis) { return y.shape[axis] != 1; })},
               x.elements() / std::max<std::int64_t>(y.elements(), 1)),
        elements_(along_.outer() * along_.inner()) {}

  std::int64_t items() const override { return lanes_.items(); }

  void execute(std::int64_t item, const Buffers& buffers, std::byte*) const override {
    T* arena = reinterpret_cast<T*>(buffers.arena);
    lanes_.for_each(item, [&](const std::array<std::int64_t, 2>& at, std::int64_t lanes) {
      float made[kBlock];
      fold(arena + at[1], lanes, made);
      T* y = arena + at[0];
      for (std::int64_t i = 0; i < lanes; ++i) y[i * lanes_.stride(0)] = static_cast<T>(made[i]);
    });
  }

 private:
  static View from_zero(View view) {
    view.offset = 0;
    return view;
  }

  void fold(const T* x, std::int64_t lanes, float* made) const {
    const std::int64_t stride = lanes_.stride(1);
    switch (reduction_) {
      case Reduction::kSum:
        return fold_lanes<Sum>(along_, x, stride, lanes, made, same);
      case Reduction::kMean:
        fold_lanes<Sum>(along_, x, stride, lanes, made, same);
        for (std::int64_t i = 0; i < lanes; ++i) made[i] /= static_cast<float>(elements_);
        return;
      case Reduction::kMax:
        return fold_lanes<Highest>(along_, x, stride, lanes, made, same);
      case Reduction::kMin:
        return fold_lanes<Lowest>(along_, x, stride, lanes, made, same);
      case Reduction::kL2:
        fold_lanes<Sum>(along_, x, stride, lanes, made, squared);
        for (std::int64_t i = 0; i < lanes; ++i) made[i] = std::sqrt(made[i]);
    }
  }

  const Reduction reduction_;
  const Nest<1> along_;
  const Lanes<2> lanes_;
  const std::int64_t elements_;
};

template <class T>
class Normalize final : public Operation {
 public:
  Normalize(const View& x, const View& y, int axis, float epsilon, std::vector<float> scale,
            std::vector<float> shift)
      : epsilon_(epsilon),
        scale_(std::move(scale)),
        shift_(std::move(shift)),
        x_along_({inner(x, axis)}),
        along_({inner(y, axis), inner(x, axis), constant(y, axis, scale_.size()),
                constant(y, axis, shift_.size())}),
        lanes_({outer(y, axis), outer(x, axis)}, along_.outer() * along_.inner()),
        elements_(along_.outer() * along_.inner()) {
    // One number for all, where there is none for each.
    if (scale_.empty()) scale_ = {1.0f};
    if (shift_.empty()) shift_ = {0.0f};
  }

  std::int64_t items() const override { return lanes_.items(); }

  void execute(std::int64_t item, const Buffers& buffers, std::byte*) const override {
    T* arena = reinterpret_cast<T*>(buffers.arena);
    lanes_.for_each(item, [&](const std::array<std::int64_t, 2>& at, std::int64_t lanes) {
      const T* x = arena + at[1];
      float mean[kBlock], factor[kBlock];
      fold_lanes<Sum>(x_along_, x, lanes_.stride(1), lanes, mean, same);
      for (std::int64_t i = 0; i < lanes; ++i) mean[i] /= static_cast<float>(elements_);
      fold_lanes<Sum>(x_along_, x, lanes_.stride(1), lanes, factor,
                      [&](float value, std::int64_t lane) {
                        return (value - mean[lane]) * (value - mean[lane]);
                      });
      for (std::int64_t i = 0; i < lanes; ++i) {
        factor[i] = 1 / std::sqrt(factor[i] / static_cast<float>(elements_) + epsilon_);
      }
      write(x, arena + at[0], lanes, mean, factor);
    });
  }

 private:
  static View outer(const View& view, int axis) {
    return part_of(view, [&](int n) { return n < axis; });
  }
  static View inner(const View& view, int axis) {
    View part = part_of(view, [&](int n) { return n >= axis; });
    part.offset = 0;
    return part;
  }
  // In C order along the axes from `axis` on; or one number for all.
  static View constant(const View& like, int axis, std::size_t numbers) {
    View view = contiguous(like.rank, inner(like, axis).shape);
    if (numbers == 0) view.strides.fill(0);
    return view;
  }

  void write(const T* x, T* y, std::int64_t lanes, const float* mean, const float* factor) const {
    const std::int64_t n = along_.inner();
    std::int64_t step[4], lane[2] = {lanes_.stride(0), lanes_.stride(1)};
    for (int v = 0; v < 4; ++v) step[v] = along_.inner_stride(v);
    const bool single = one_by_one(lanes, lane[0], n, step[0]);
    for_each_row<1>(along_, 0, along_.outer(), [&](const std::array<std::int64_t, 4>& at) {
      const float *scale = scale_.data() + at[2], *shift = shift_.data() + at[3];
      for (std::int64_t i = 0; single && i < lanes; ++i) {
        const T* from = x + at[1] + i * lane[1];
        T* to = y + at[0] + i * lane[0];
        if (step[0] == 1 && step[1] == 1 && step[2] == 1 && step[3] == 1) {
          for (std::int64_t k = 0; k < n; ++k) {
            to[k] = static_cast<T>((float(from[k]) - mean[i]) * factor[i] * scale[k] + shift[k]);
          }
        } else {
          for (std::int64_t k = 0; k < n; ++k) {
            const float value = (float(from[k * step[1]]) - mean[i]) * factor[i];
            to[k * step[0]] = static_cast<T>(value * scale[k * step[2]] + shift[k * step[3]]);
          }
        }
      }
      for (std::int64_t k = 0; !single && k < n; ++k) {
        const T* from = x + at[1] + k * step[1];
        T* to = y + at[0] + k * step[0];
        const float times = scale[k * step[2]], plus = shift[k * step[3]];
        for (std::int64_t i = 0; i < lanes; ++i) {
          const float value = (float(from[i * lane[1]]) - mean[i]) * factor[i];
          to[i * lane[0]] = static_cast<T>(value * times + plus);
        }
      }
    });
  }

  const float epsilon_;
  std::vector<float> scale_, shift_;
  const Nest<1> x_along_;
  const Nest<4> along_;  // y, x, scale, shift
  const Lanes<2> lanes_;
  const std::int64_t elements_;
};

}  // namespace

template <class T>
std::unique_ptr<const Operation> make_reduce(Reduction reduction, const View& x, const View& y,
                                             std::int64_t arena_elements) {
  check_readable(x, arena_elements, "reduce: x");
  check_writable(y, arena_elements, "reduce: y");
  if (x.rank != y.rank) throw std::invalid_argument("reduce: x and y differ in their axes");
  View expected = x;
  for (int axis = 0; axis < x.rank; ++axis) {
    if (y.shape[axis] == 1) expected.shape[axis] = 1;
  }
  check_same_shape(expected, y, "reduce");
  return std::make_unique<Reduce<T>>(reduction, x, y);
}

template <class T>
std::unique_ptr<const Operation> make_normalize(const View& x, const View& y, int axis,
                                                float epsilon, std::vector<float> scale,
                                                std::vector<float> shift,
                                                std::int64_t arena_elements) {
  check_readable(x, arena_elements, "normalize: x");
  check_writable(y, arena_elements, "normalize: y");
  check_same_shape(x, y, "normalize");
  if (axis < 0 || axis >= x.rank) throw std::invalid_argument("normalize: impossible axis");
  std::int64_t numbers = 1;
  for (int n = axis; n < x.rank; ++n) numbers *= x.shape[n];
  for (const std::vector<float>* constant : {&scale, &shift}) {
    if (!constant->empty() && static_cast<std::int64_t>(constant->size()) != numbers) {
      throw std::invalid_argument("normalize: scale and shift: expected " +
                                  std::to_string(numbers) + " numbers");
    }
  }
  return std::make_unique<Normalize<T>>(x, y, axis, epsilon, std::move(scale), std::move(shift));
}

#define INSTANTIATE(T)                                                                          \
  template std::unique_ptr<const Operation> make_reduce<T>(Reduction, const View&, const View&, \
                                                           std::int64_t);                       \
  template std::unique_ptr<const Operation> make_normalize<T>(                                  \
      const View&, const View&, int, float, std::vector<float>, std::vector<float>, std::int64_t);
INSTANTIATE(float)
INSTANTIATE(Bfloat16)
#undef INSTANTIATE

}  // namespace masktools
