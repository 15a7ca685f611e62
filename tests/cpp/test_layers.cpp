// The kernels of layers against convolutions by definition.
#include "arena.h"
#include "check.h"
#include "definitions.h"
#include "kernels/grouped/convolution.h"
#include "kernels/grouped/narrow.h"
#include "network.h"

namespace masktools {
namespace {

// Compares what a kernel makes of a layer.
template <class Kernel>
void check(const Kernel& kernel, const PackedCase& packed) {
  packed.compare(executed(kernel, packed.arena()));
}

// Groups of every height, blocks and rows, alone and together.
void check_all_groups(Case c) {
  for (std::int64_t rows = 1; rows <= kMaxRows; ++rows) {
    c.group_rows = rows;
    c.rows = 2 * rows + 1;
    c.skip = rows % 2 == 0 && c.pooling == Combine::kStore;
    c.over_skip = rows % 4 == 0;
    c.activation = kActivations[rows % kActivationCount];
    for (const auto& [block, row] : {std::pair(1.0, 0.0), std::pair(0.3, 0.0), std::pair(0.3, 0.1),
                                     std::pair(0.0, 0.2), std::pair(0.0, 0.0)}) {
      c.block_share = block;
      c.row_share = row;
      c.seed += 1;
      PackedCase packed(c);
      check(Convolution(packed.layer()), packed);
    }
  }
}

TEST(convolution_of_whole_pixels) {
  for (const std::int64_t batch : {1, 5, 16, 33, 100}) {
    for (const std::int64_t stride : {1, 2}) {
      check_all_groups({batch, 5, 0, 4, 3, stride, true, 0, 0, 0, false, {}, 0});
    }
  }
}

TEST(convolution_from_pixel_to_pixel) {
  for (const std::int64_t batch : {16, 33}) {
    for (const std::int64_t stride : {1, 2}) {
      for (const std::int64_t width : {1, 2, 5, 17}) {
        Case c{batch, 4, 0, 3, width, stride, true, 0, 0, 0, false, {}, 11};
        c.apart = true;
        check_all_groups(c);
      }
    }
  }
}

// Each kernel, with a last vector that is whole and with one that is not.
TEST(convolution_of_every_width) {
  for (std::int64_t rows = 1; rows <= kMaxRows; ++rows) {
    for (std::int64_t count = 1; count <= vectors(rows); ++count) {
      for (const std::int64_t missing : {0, 3}) {
        const std::int64_t width = count * kLanes - missing - 1;  // and a halo of one
        const Case c{1, 2, rows, 1, width, 1, false, rows, 1.0, 0.0, false, {}, 8};
        const PackedCase packed(c);
        check(Convolution(packed.layer()), packed);
      }
    }
  }
}

TEST(convolution_of_planes) {
  for (const std::int64_t batch : {1, 2, 3, 9}) {
    for (const std::int64_t width : {1, 2, 7, 16, 41}) {
      check_all_groups({batch, 3, 0, 3, width, 1, false, 0, 0, 0, false, {}, 7});
    }
  }
}

TEST(convolution_and_pooling_at_once) {
  for (const Combine pooling : {Combine::kMax, Combine::kAdd}) {
    for (const std::int64_t batch : {16, 40}) {
      check_all_groups({batch, 3, 0, 5, 4, 1, true, 0, 0, 0, false, {}, 5, false, pooling});
      check_all_groups({batch, 3, 0, 4, 9, 2, true, 0, 0, 0, false, {}, 6, false, pooling});
    }
  }
}

TEST(convolution_however_the_work_is_cut) {
  const auto check_all_cuts = [](const Case& c) {
    const PackedCase packed(c);
    Layer layer = packed.layer();
    for (const std::int64_t vectors : {1, 2, 3, 7, 100}) {
      layer.tile_vectors = vectors;
      layer.prefetch = vectors == 3 ? 0 : kOffsetPadding;
      layer.parts_first = vectors % 2 == 0;
      check(Convolution(layer), packed);
    }
  };
  for (const std::int64_t rows : {1, 3, 8}) {
    Case c{70, 3, 2 * rows + 1, 4, 4, 1, false, rows, 0.4, 0.1, false, {}, 2};
    check_all_cuts(c);
    c.pixel_mode = true;
    check_all_cuts(c);
    c.pooling = Combine::kMax;
    check_all_cuts(c);
  }
}

TEST(narrow_layers) {
  for (const std::int64_t batch : {1, 2, 3, 5, 7}) {
    for (std::int64_t rows = 1; rows <= kNarrowRows; ++rows) {
      // Few lanes and many; channels fewer and more than all lanes go over at once.
      const std::int64_t size = 1 + rows % 5, channels = rows % 3 ? 9 : 70;
      for (const double row_share : {0.0, 0.2}) {
        Case c{batch, channels, 2 * rows + 1, size,          size, 1, false,
               rows,  0.4,      row_share,    rows % 2 == 0, {},   3};
        c.over_skip = rows % 4 == 0;
        c.activation = kActivations[rows % kActivationCount];
        const PackedCase packed(c);
        check(Narrow(packed.layer()), packed);
      }
    }
  }
}

TEST(narrow_layers_that_pool) {
  for (const Combine pooling : {Combine::kMax, Combine::kAdd}) {
    for (std::int64_t rows = 1; rows <= kMaxRows; ++rows) {
      const Case c{3, 5, 2 * rows, 4, 4, 1, true, rows, 0.4, 0.0, false, {}, 4, false, pooling};
      const PackedCase packed(c);
      check(Narrow(packed.layer()), packed);
    }
  }
}

TEST(a_wrong_weight_is_seen) {
  PackedCase packed({16, 3, 4, 4, 4, 1, true, 4, 0.5, 0.0, false, {}, 0});
  Layer wrong = packed.layer();
  std::vector<float> weights(wrong.weights.data, wrong.weights.data + wrong.weights.size);
  weights[0] += 1.0f;
  wrong.weights.data = weights.data();
  bool seen = false;
  try {
    check(Convolution(wrong), packed);
  } catch (const std::runtime_error&) {
    seen = true;
  }
  expect(seen, "the comparison does not see a wrong weight");
}

}  // namespace
}  // namespace masktools
