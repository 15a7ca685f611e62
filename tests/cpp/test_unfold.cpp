// Unfolding against its definition.
#include "arena.h"
#include "check.h"
#include "kernels/unfold.h"

namespace masktools {
namespace {

constexpr std::int64_t kChannels = 3, kRows = 4;

// An image, and the planes that it is unfolded into behind it.
template <class T>
struct UnfoldCase {
  UnfoldCase(const Unfolding& wanted, std::vector<std::int64_t> chosen, std::uint32_t seed)
      : unfolding(wanted), origins(std::move(chosen)) {
    Random random(seed);
    unfolding.pitch = unfolding.width + random.below(3);
    const std::int64_t image = unfolding.height * unfolding.pitch * unfolding.batch;
    unfolding.x = {random.below(9), kChannels, image + random.below(5)};
    unfolding.origins = {origins.data(), static_cast<std::int64_t>(origins.size())};
    std::int64_t most = 0;
    for (std::size_t j = 2; j < origins.size(); j += 3) most = std::max(most, origins[j]);
    unfolding.plane = (kRows + most) * unfolding.columns * unfolding.batch + random.below(5);
    offset = unfolding.x.offset + kChannels * unfolding.x.plane;
    arena.resize(offset + kChannels * unfolding.planes() * unfolding.plane);
    for (T& element : arena) element = T(static_cast<float>(random.below(200) + 1));
  }

  T value(std::int64_t channel, std::int64_t y, std::int64_t x, std::int64_t n) const {
    const Unfolding& u = unfolding;
    if (y < 0 || y >= u.height || x < 0 || x >= u.width) return T(0.0f);
    return arena[u.x.offset + channel * u.x.plane + (y * u.pitch + x) * u.batch + n];
  }

  std::vector<T> expected() const {
    const Unfolding& u = unfolding;
    std::vector<T> made = arena;
    for (std::int64_t p = 0; p < kChannels * u.planes(); ++p) {
      const std::int64_t* origin = origins.data() + p % u.planes() * 3;
      T* to = made.data() + offset + p * u.plane;
      for (std::int64_t i = 0; i < kRows + origin[2]; ++i) {
        for (std::int64_t k = 0; k < u.columns; ++k) {
          for (std::int64_t n = 0; n < u.batch; ++n) {
            *to++ =
                value(p / u.planes(), origin[0] + i * u.stride_y, origin[1] + k * u.stride_x, n);
          }
        }
      }
    }
    return made;
  }

  void check() const {
    const Unfold kernel(unfolding, kRows, offset, static_cast<std::int64_t>(arena.size()));
    const std::vector<T> got =
        executed(arena, kernel.items(), 0,
                 [&](std::int64_t item, T* elements, T*) { kernel.execute(item, elements); });
    expect(same_bits(got, expected()), "unfolding of batch " + std::to_string(unfolding.batch) +
                                           " by " + std::to_string(unfolding.stride_x));
  }

  Unfolding unfolding;
  std::vector<std::int64_t> origins;
  std::int64_t offset;
  std::vector<T> arena;
};

Unfolding shape(std::int64_t batch, std::int64_t height, std::int64_t width, std::int64_t stride,
                std::int64_t columns) {
  Unfolding u;
  u.batch = batch;
  u.height = height;
  u.width = width;
  u.stride_y = u.stride_x = stride;
  u.columns = columns;
  return u;
}

// Origins before, in and beyond the image.
const std::vector<std::int64_t> kOrigins = {-3, -5, 0, 0, 0, 2, 1, 3, 1, -1, 40, 0, 30, 1, 0};

TEST(unfolding_of_every_batch_and_stride) {
  std::uint32_t seed = 0;
  for (const std::int64_t batch : {1, 2, 3, 4, 5, 8, 16, 17}) {
    for (const std::int64_t stride : {1, 2, 3, 4, 5}) {
      for (const std::int64_t width : {1, 6, 19}) {
        Unfolding u = shape(batch, 7, width, stride, 2 + width / stride);
        UnfoldCase<float>(u, kOrigins, ++seed).check();
        UnfoldCase<Bfloat16>(u, kOrigins, seed).check();
        u.stride_y = 1 + seed % 3;
        UnfoldCase<float>(u, kOrigins, seed).check();
      }
    }
  }
}

TEST(unfolding_in_several_items) {
  const UnfoldCase<float> c(shape(8, 30, 400, 2, 201), {-1, -1, 1, -1, 0, 1, -1, 1, 1}, 1);
  const auto elements = static_cast<std::int64_t>(c.arena.size());
  expect(Unfold(c.unfolding, kRows, c.offset, elements).items() > 1, "one item alone");
  c.check();
}

TEST(unfolding_refuses_what_does_not_fit) {
  constexpr std::int64_t kHuge = std::int64_t{1} << 60;
  const UnfoldCase<float> c(shape(2, 5, 6, 2, 4), {-1, -1, 1, -1, 0, 1}, 1);
  const auto elements = static_cast<std::int64_t>(c.arena.size());
  const auto refused = [&](const char* what, const Unfolding& u, std::int64_t rows,
                           std::int64_t offset) {
    expect_refused(what, [&] { Unfold made(u, rows, offset, elements); });
  };
  c.check();
  const std::pair<const char*, void (*)(Unfolding*)> changes[] = {
      {"no height", [](Unfolding* u) { u->height = 0; }},
      {"no batch", [](Unfolding* u) { u->batch = 0; }},
      {"a pitch below the width", [](Unfolding* u) { u->pitch = u->width - 1; }},
      {"a huge pitch", [](Unfolding* u) { u->pitch = kHuge; }},
      {"no stride", [](Unfolding* u) { u->stride_x = 0; }},
      {"a huge stride", [](Unfolding* u) { u->stride_y = kHuge; }},
      {"no columns", [](Unfolding* u) { u->columns = 0; }},
      {"rows too long", [](Unfolding* u) { u->columns = 100; }},
      {"x outside", [](Unfolding* u) { u->x.offset = kHuge; }},
      {"x before", [](Unfolding* u) { u->x.offset = -1; }},
      {"x too high", [](Unfolding* u) { u->height = 10000; }},
      {"x of far planes", [](Unfolding* u) { u->x.plane *= 1000; }},
      {"x of no planes", [](Unfolding* u) { u->x.planes = 0; }},
      {"a small plane", [](Unfolding* u) { u->plane = u->columns * u->batch * kRows; }},
      {"a huge plane", [](Unfolding* u) { u->plane = kHuge; }},
      {"no origins", [](Unfolding* u) { u->origins.size = 0; }},
      {"half an origin", [](Unfolding* u) { u->origins.size = 4; }},
  };
  for (const auto& [what, change] : changes) {
    Unfolding u = c.unfolding;
    change(&u);
    refused(what, u, kRows, c.offset);
  }
  refused("no rows", c.unfolding, 0, c.offset);
  refused("rows beyond a plane", c.unfolding, kRows + 10, c.offset);
  refused("planes outside", c.unfolding, kRows, c.offset + 10);
  refused("planes before", c.unfolding, kRows, -1);
  for (const std::int64_t origin : {kHuge, -kHuge}) {
    for (const std::size_t entry : {0, 1, 2}) {
      std::vector<std::int64_t> origins = c.origins;
      origins[entry] = origin;
      Unfolding u = c.unfolding;
      u.origins = {origins.data(), static_cast<std::int64_t>(origins.size())};
      refused("a huge origin", u, kRows, c.offset);
    }
  }
}

}  // namespace
}  // namespace masktools
