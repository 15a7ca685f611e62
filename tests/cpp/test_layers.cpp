// The kernels of layers against convolutions by definition.
#include "../../cpu/convolution.h"
#include "../../cpu/narrow.h"
#include "check.h"
#include "network.h"

namespace masktools {
namespace {

const Activation kActivations[] = {{Activation::Op::kNone, 0, 0},
                                   {Activation::Op::kRelu, 0, 0},
                                   {Activation::Op::kSigmoid, 0, 0},
                                   {Activation::Op::kHardSwish, 0, 0}};

// Groups of every height, blocks and rows, alone and together.
void check_all_groups(Case c) {
  for (std::int64_t rows = 1; rows <= kMaxRows; ++rows) {
    c.group_rows = rows;
    c.rows = 2 * rows + 1;
    c.skip = rows % 2 == 0;
    c.over_skip = rows % 4 == 0;
    c.activation = kActivations[rows % 4];
    for (const auto& [block, row] : {std::pair(1.0, 0.0), std::pair(0.3, 0.0), std::pair(0.3, 0.1),
                                     std::pair(0.0, 0.2), std::pair(0.0, 0.0)}) {
      c.block_share = block;
      c.row_share = row;
      c.seed += 1;
      PackedCase packed(c);
      packed.check(Convolution(packed.layer()));
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

TEST(convolution_of_planes) {
  for (const std::int64_t batch : {1, 2, 3, 9}) {
    for (const std::int64_t width : {1, 2, 7, 16, 41}) {
      check_all_groups({batch, 3, 0, 3, width, 1, false, 0, 0, 0, false, {}, 7});
    }
  }
}

TEST(narrow_layers) {
  for (const std::int64_t batch : {1, 2, 3}) {
    for (std::int64_t rows = 1; rows <= kMaxRows; ++rows) {
      Case c{batch, 9, 3 * rows + 1, 2, 2, 1, false, rows, 0.4, 0.0, rows % 2 == 0, {}, 3};
      c.over_skip = rows % 4 == 0;
      c.activation = kActivations[rows % 4];
      PackedCase packed(c);
      packed.check(Narrow(packed.layer()));
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
    packed.check(Convolution(wrong));
  } catch (const std::runtime_error&) {
    seen = true;
  }
  expect(seen, "the comparison does not see a wrong weight");
}

}  // namespace
}  // namespace masktools
