// Depthwise convolutions against their definition.
#include "arena.h"
#include "check.h"
#include "definitions.h"
#include "kernels/depthwise.h"
#include "simd/bfloat16.h"
#include "simd/vector.h"

namespace masktools {
namespace {

std::int64_t at(const View& view, std::int64_t n, std::int64_t c, std::int64_t y, std::int64_t x) {
  return view.offset + n * view.strides[0] + c * view.strides[1] + y * view.strides[2] +
         x * view.strides[3];
}

// A layer, with all that it reads; `wanted` has its window, its halo and its cut.
struct DepthwiseCase {
  DepthwiseCase(const DepthwiseLayer& wanted, const Index& in, const Index& out, bool skip,
                bool bfloat16, std::uint32_t seed);

  View add(const Index& shape, std::int64_t halo);
  Expected expected() const;

  template <class T>
  void check() const {
    const auto operation = make_depthwise<T>(layer);
    expected().compare(widened(executed(*operation, stored<T>(arena))),
                       sizeof(T) == 2 ? 1.0 / 256 : 1e-5);
  }

  DepthwiseLayer layer;
  std::vector<float> arena, weights, bias;
};

// Rows of (lanes, channels, height, width), with so many pixels of zeros beside each and before the
// first, NaNs elsewhere.
View DepthwiseCase::add(const Index& shape, std::int64_t halo) {
  View view;
  view.rank = 4;
  view.shape = shape;
  const std::int64_t lanes = shape[0], row = (shape[3] + halo) * lanes;
  const std::int64_t plane = shape[2] * row + halo * lanes + 3;
  view.strides = {1, plane, row, lanes};
  view.offset = static_cast<std::int64_t>(arena.size()) + halo * lanes;
  arena.resize(view.offset + shape[1] * plane, std::nanf(""));
  for (std::int64_t c = 0; c < shape[1]; ++c) {
    const auto first = arena.begin() + view.offset + c * plane;
    std::fill(first - halo * lanes, first + shape[2] * row, 0.0f);
  }
  return view;
}

DepthwiseCase::DepthwiseCase(const DepthwiseLayer& wanted, const Index& in, const Index& out,
                             bool skip, bool bfloat16, std::uint32_t seed)
    : layer(wanted) {
  Random random(seed);
  const auto number = [&] {
    return bfloat16 ? static_cast<float>(Bfloat16(random.number())) : random.number();
  };
  const auto fill = [&](const View& view) {
    for (std::int64_t i = 0; i < view.elements(); ++i) {
      const std::int64_t pixel = i / view.shape[0], row = pixel / view.shape[3];
      arena[at(view, i % view.shape[0], row / view.shape[2], row % view.shape[2],
               pixel % view.shape[3])] = number();
    }
  };
  const std::int64_t last =
      (out[3] - 1) * layer.strides[1] - layer.pads[1] + (layer.kernel[1] - 1) * layer.dilations[1];
  const std::int64_t reach = std::max({layer.pads[1], last - (in[3] - 1), std::int64_t{0}});
  layer.x = add(in, reach);
  fill(layer.x);
  layer.y = add(out, layer.halo);
  if (skip) {
    layer.skip = seed % 2 == 0 ? layer.y : add(out, layer.halo);
    fill(layer.skip);
  }
  for (std::int64_t i = out[1] * layer.kernel[0] * layer.kernel[1]; i > 0; --i) {
    weights.push_back(number());
  }
  if (seed % 3 != 0) bias = random.numbers(out[1]);
  layer.weights = {weights.data(), static_cast<std::int64_t>(weights.size())};
  layer.bias = {bias.data(), static_cast<std::int64_t>(bias.size())};
  layer.arena_elements = static_cast<std::int64_t>(arena.size());
}

Expected DepthwiseCase::expected() const {
  const View &x = layer.x, &y = layer.y;
  Expected expected(arena);
  const auto output = [&](std::int64_t n, std::int64_t c, std::int64_t oy, std::int64_t ox) {
    double sum = bias.empty() ? 0.0 : bias[c];
    for (std::int64_t tap = 0; tap < layer.kernel[0] * layer.kernel[1]; ++tap) {
      const std::int64_t in_y =
          oy * layer.strides[0] - layer.pads[0] + tap / layer.kernel[1] * layer.dilations[0];
      const std::int64_t in_x =
          ox * layer.strides[1] - layer.pads[1] + tap % layer.kernel[1] * layer.dilations[1];
      if (in_y < 0 || in_y >= x.shape[2] || in_x < 0 || in_x >= x.shape[3]) continue;
      sum += double{weights[c * layer.kernel[0] * layer.kernel[1] + tap]} *
             arena[at(x, n, c / (y.shape[1] / x.shape[1]), in_y, in_x)];
    }
    if (layer.skip.rank) sum += arena[at(layer.skip, n, c, oy, ox)];
    return activated(layer.activation, sum);
  };
  for (std::int64_t n = 0; n < y.shape[0]; ++n) {
    for (std::int64_t c = 0; c < y.shape[1]; ++c) {
      for (std::int64_t k = 1; k <= layer.halo; ++k) expected.set(at(y, n, c, 0, -k), 0.0);
      for (std::int64_t oy = 0; oy < y.shape[2]; ++oy) {
        for (std::int64_t ox = 0; ox < y.shape[3] + layer.halo; ++ox) {
          expected.set(at(y, n, c, oy, ox), ox < y.shape[3] ? output(n, c, oy, ox) : 0.0);
        }
      }
    }
  }
  return expected;
}

// Whether vectors hold every second pixel of so many lanes.
bool takes_every_second(std::int64_t lanes) {
  return lanes % kLanes == 0 || (lanes < kLanes && kLanes % lanes == 0);
}

TEST(depthwise_of_any_window) {
  constexpr std::array<std::int64_t, 2> kKernels[] = {{3, 3}, {3, 3}, {5, 5}, {1, 4}, {2, 3}};
  Random random(0);
  for (const std::int64_t lanes : {1, 2, 3, 4, 7, 8, 16, 17, 32, 48}) {
    for (std::uint32_t round = 0; round < 40; ++round) {
      DepthwiseLayer layer;
      layer.kernel = kKernels[round % 5];
      Index in{lanes, 1 + random.below(4)}, out{lanes, in[1] * (1 + random.below(2))};
      for (int axis = 0; axis < 2; ++axis) {
        layer.strides[axis] = 1 + random.below(2);
        layer.dilations[axis] = 1 + random.below(4) / 3;
        layer.pads[axis] = random.below(3);
        const std::int64_t reach = (layer.kernel[axis] - 1) * layer.dilations[axis] + 1;
        in[axis + 2] = reach + random.below(axis == 0 ? 12 : 40);
      }
      if (!takes_every_second(lanes)) layer.strides[1] = 1;
      for (int axis = 0; axis < 2; ++axis) {
        const std::int64_t reach = (layer.kernel[axis] - 1) * layer.dilations[axis] + 1;
        const std::int64_t room = in[axis + 2] + layer.pads[axis] + random.below(3) - reach;
        out[axis + 2] = room / layer.strides[axis] + 1;
      }
      layer.halo = lanes % kLanes == 0 ? 0 : random.below(3);
      layer.strips = 1 + random.below(3);
      layer.parts = 1 + random.below(3);
      layer.activation = kActivations[round % kActivationCount];
      DepthwiseCase(layer, in, out, round % 3 == 0, false, round).check<float>();
      DepthwiseCase(layer, in, out, round % 3 == 0, true, round).check<Bfloat16>();
    }
  }
}

TEST(depthwise_refuses_what_does_not_fit) {
  constexpr std::int64_t kHuge = std::int64_t{1} << 60;
  DepthwiseLayer wanted;
  wanted.kernel = {3, 3};
  wanted.pads = {1, 1};
  wanted.halo = 1;
  const DepthwiseCase c(wanted, {1, 2, 5, 5}, {1, 2, 5, 5}, true, false, 1);
  c.check<float>();
  const std::pair<const char*, void (*)(DepthwiseLayer*)> changes[] = {
      {"x outside", [](DepthwiseLayer* l) { l->x.offset = l->arena_elements - 9; }},
      {"x before", [](DepthwiseLayer* l) { l->x.offset = -1; }},
      {"y outside", [](DepthwiseLayer* l) { l->y.offset = l->arena_elements - 9; }},
      {"rows of y that overlap", [](DepthwiseLayer* l) { l->y.strides[2] = 3; }},
      {"another number of lanes", [](DepthwiseLayer* l) { l->x.shape[0] = 2; }},
      {"channels that are no multiple", [](DepthwiseLayer* l) { l->x.shape[1] = 3; }},
      {"a skip branch of another shape", [](DepthwiseLayer* l) { l->skip.shape[2] = 4; }},
      {"no room for the halo", [](DepthwiseLayer* l) { l->halo = 2; }},
      {"no room before", [](DepthwiseLayer* l) { l->y.offset = 0; }},
      {"pixels apart", [](DepthwiseLayer* l) { l->x.strides[3] = 2; }},
      {"a stride of 3", [](DepthwiseLayer* l) { l->strides[1] = 3; }},
      {"no stride", [](DepthwiseLayer* l) { l->strides[0] = 0; }},
      {"negative padding", [](DepthwiseLayer* l) { l->pads[0] = -1; }},
      {"huge padding", [](DepthwiseLayer* l) { l->pads[1] = kHuge; }},
      {"padding beyond the zeros", [](DepthwiseLayer* l) { l->pads[1] = 100; }},
      {"a huge dilation", [](DepthwiseLayer* l) { l->dilations[1] = kHuge; }},
      {"taps beyond the zeros", [](DepthwiseLayer* l) { l->dilations[1] = 200; }},
      {"weights", [](DepthwiseLayer* l) { l->weights.size -= 1; }},
      {"bias", [](DepthwiseLayer* l) { l->bias.size = 1; }},
      {"no strips", [](DepthwiseLayer* l) { l->strips = 0; }},
      {"no parts", [](DepthwiseLayer* l) { l->parts = 0; }},
  };
  for (const auto& [what, change] : changes) {
    DepthwiseLayer layer = c.layer;
    change(&layer);
    expect_refused(what, [&] { make_depthwise<float>(layer); });
  }
}

}  // namespace
}  // namespace masktools
