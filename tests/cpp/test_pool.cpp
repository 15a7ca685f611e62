// Pools against their definitions.
#include <array>
#include <cmath>

#include "arena.h"
#include "check.h"
#include "simd/bfloat16.h"
#include "steps/pool.h"

namespace masktools {
namespace {

using Order = std::array<int, 4>;  // of the axes, the outermost first
constexpr Order kOrders[] = {{1, 2, 3, 0}, {0, 1, 2, 3}, {0, 2, 3, 1}};

// A view behind `*end`, with gaps between what its axes pass over.
View laid_out(const Index& shape, const Order& order, Random* random, std::int64_t* end) {
  View view;
  view.rank = 4;
  view.shape = shape;
  view.offset = *end + random->below(4);
  std::int64_t stride = 1;
  for (int i = 3; i >= 0; --i) {
    view.strides[order[i]] = stride;
    stride = stride * shape[order[i]] + random->below(2) * random->below(3);
  }
  *end = view.offset + stride;
  return view;
}

std::int64_t element(const View& view, std::int64_t n, std::int64_t c, std::int64_t y,
                     std::int64_t x) {
  return view.offset + n * view.strides[0] + c * view.strides[1] + y * view.strides[2] +
         x * view.strides[3];
}

// How many positions a window has along an axis, and -1 where it is larger than the image.
std::int64_t positions(const Window& w, std::int64_t size, int axis) {
  const std::int64_t reach = (w.kernel[axis] - 1) * w.dilations[axis] + 1;
  const std::int64_t room = size + w.pads[axis] + w.pads[axis + 2] - reach;
  return room < 0 ? -1 : room / w.strides[axis] + 1;
}

// One output: the taps inside the image, and how many are counted.
double pooled(PoolKind kind, const std::vector<float>& arena, const View& x, const Window& w,
              const Index& at) {
  double largest = -INFINITY, sum = 0;
  std::int64_t counted = 0;
  bool missing = false;
  for (std::int64_t ky = 0; ky < w.kernel[0]; ++ky) {
    for (std::int64_t kx = 0; kx < w.kernel[1]; ++kx) {
      const std::int64_t in_y = at[2] * w.strides[0] + ky * w.dilations[0] - w.pads[0];
      const std::int64_t in_x = at[3] * w.strides[1] + kx * w.dilations[1] - w.pads[1];
      const auto within = [](std::int64_t i, std::int64_t before, std::int64_t end) {
        return i >= -before && i < end;
      };
      counted += within(in_y, w.counted[0], x.shape[2] + w.counted[2]) &&
                 within(in_x, w.counted[1], x.shape[3] + w.counted[3]);
      if (!within(in_y, 0, x.shape[2]) || !within(in_x, 0, x.shape[3])) continue;
      const double value = arena[element(x, at[0], at[1], in_y, in_x)];
      missing |= std::isnan(value);
      largest = std::max(largest, value);
      sum += value;
    }
  }
  if (kind == PoolKind::kAverage) return sum / static_cast<double>(counted);
  return missing ? std::nan("") : largest;
}

// `shape` is that of x; a number in a hundred is NaN.
template <class T>
void check_pool(PoolKind kind, const Index& shape, const Window& window, const Order& order,
                std::uint32_t seed) {
  Random random(seed);
  std::int64_t end = 0;
  const View x = laid_out(shape, order, &random, &end);
  const Index out{shape[0], shape[1], positions(window, shape[2], 0),
                  positions(window, shape[3], 1)};
  const View y = laid_out(out, order, &random, &end);
  std::vector<float> numbers = random.numbers(end);
  for (float& number : numbers) {
    if (random.below(100) == 0) number = std::nanf("");
  }
  const std::vector<T> before = stored<T>(numbers);
  const std::vector<float> values = widened(before);
  Expected expected(values);
  for (std::int64_t i = 0; i < y.elements(); ++i) {
    const Index at{i / out[3] / out[2] / out[1], i / out[3] / out[2] % out[1], i / out[3] % out[2],
                   i % out[3]};
    expected.set(element(y, at[0], at[1], at[2], at[3]), pooled(kind, values, x, window, at));
  }
  const auto operation = make_pool<T>(kind, x, y, window, end);
  expected.compare(widened(executed(*operation, before)), sizeof(T) == 2 ? 1.0 / 256 : 1e-6);
}

void check_all(const Index& shape, const Window& window, const Order& order, std::uint32_t seed) {
  for (const PoolKind kind : {PoolKind::kMax, PoolKind::kAverage}) {
    check_pool<float>(kind, shape, window, order, seed);
    check_pool<Bfloat16>(kind, shape, window, order, seed);
  }
}

TEST(pools_of_any_window_and_layout) {
  Random random(0);
  for (const std::int64_t batch : {1, 2, 3, 4, 7, 8, 16, 33}) {
    for (int round = 0; round < 20; ++round) {
      Window w{};
      Index shape{batch, 1 + random.below(3)};
      for (int axis = 0; axis < 2; ++axis) {
        w.kernel[axis] = 1 + random.below(4);
        w.strides[axis] = 1 + random.below(3);
        w.dilations[axis] = 1 + random.below(2);
        for (const int side : {axis, axis + 2}) {
          w.pads[side] = random.below(w.kernel[axis]);
          w.counted[side] = random.below(w.pads[side] + 1);
        }
        do {
          shape[axis + 2] = 1 + random.below(14);
        } while (positions(w, shape[axis + 2], axis) < 1);
      }
      check_all(shape, w, kOrders[round % 3], static_cast<std::uint32_t>(round));
    }
  }
}

// More samples, and longer rows, than are pooled at a time.
TEST(pools_of_many_samples_and_of_long_rows) {
  const Window overlapping{{3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}, {1, 0, 0, 1}};
  const Window beside{{2, 2}, {2, 2}, {1, 1}, {0, 0, 0, 0}, {0, 0, 0, 0}};
  for (const Window& window : {overlapping, beside}) {
    for (const Order& order : kOrders) {
      check_all({300, 1, 5, 6}, window, order, 1);
      check_all({1, 1, 4, 4700}, window, order, 2);
      check_all({8, 2, 3, 700}, window, order, 3);
    }
  }
}

TEST(pools_of_the_whole_image) {
  for (const std::int64_t batch : {1, 5, 16, 64}) {
    const Window window{{7, 7}, {1, 1}, {1, 1}, {0, 0, 0, 0}, {0, 0, 0, 0}};
    for (const Order& order : kOrders) check_all({batch, 5, 7, 7}, window, order, 4);
  }
}

TEST(pools_of_windows_wider_than_their_scratch_are_refused) {
  Window window{{1, 70000}, {1, 1}, {1, 1}, {0, 0, 0, 0}, {0, 0, 0, 0}};
  check_all({1, 1, 1, 70001}, window, kOrders[1], 5);
  const View x = contiguous(4, {1, 1, 1, 9}), y = contiguous(4, {1, 1, 1, 1});
  for (const std::int64_t number : {std::int64_t{1} << 17, std::int64_t{1} << 28}) {
    window.kernel[1] = window.dilations[1] = window.pads[1] = number;
    expect_refused("a wide window", [&] { make_pool<float>(PoolKind::kMax, x, y, window, 100); });
  }
}

TEST(pools_of_what_does_not_fit_are_refused) {
  const View x = contiguous(4, {2, 3, 5, 5});
  View y = contiguous(4, {2, 3, 5, 5});
  y.offset = 150;
  const Window window{{3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, {0, 0, 0, 0}};
  const auto refused = [](const char* what, const View& from, const View& to, const Window& w,
                          std::int64_t elements) {
    expect_refused(what, [&] { make_pool<float>(PoolKind::kMax, from, to, w, elements); });
  };
  make_pool<float>(PoolKind::kMax, x, y, window, 300);
  refused("an arena that is too small", x, y, window, 299);
  View other = x;
  other.shape[0] = 1;
  refused("another batch", other, y, window, 300);
  other = x;
  other.shape[1] = 2;
  refused("other channels", other, y, window, 300);
  refused("three axes", contiguous(3, {2, 3, 5}), y, window, 300);
  other = y;
  other.strides[3] = 0;
  refused("outputs in one place", x, other, window, 300);
  other = x;
  other.shape[2] = std::int64_t{1} << 40;
  other.strides[2] = 0;
  refused("a huge image", other, y, window, 300);
  for (const std::int64_t number : {std::int64_t{-1}, std::int64_t{1} << 40}) {
    for (int side = 0; side < 4; ++side) {
      Window w = window;
      w.pads[side] = number;
      refused("padding", x, y, w, 300);
      w = window;
      w.counted[side] = number;
      refused("counted", x, y, w, 300);
    }
    for (const auto member : {&Window::kernel, &Window::strides, &Window::dilations}) {
      Window w = window;
      (w.*member)[1] = number < 0 ? 0 : number;
      refused("a window", x, y, w, 300);
    }
  }
}

}  // namespace
}  // namespace masktools
