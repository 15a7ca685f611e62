// Layers that do not hold together are refused before a kernel reads or writes anything.
#include "check.h"
#include "kernels/grouped/layer.h"
#include "kernels/grouped/narrow.h"
#include "simd/vector.h"

namespace masktools {
namespace {

constexpr std::int64_t kHuge = std::int64_t{1} << 50;

// A layer of two rows, each of which lies in two groups, over two runs of a vector, with copies of
// its arrays to tamper with.
struct SmallLayer {
  SmallLayer() {
    for (std::int64_t i = 0; i < 2; ++i) {
      runs.push_back({i * kLanes, i * kLanes, kLanes, 0, -1, Combine::kStore, kLanes, kLanes});
    }
    offsets.resize(4 + kOffsetPadding);
  }

  Layer layer() const {
    Layer made;
    const auto all = [](const auto& v) {
      return Array<typename std::decay_t<decltype(v)>::value_type>{
          v.data(), static_cast<std::int64_t>(v.size())};
    };
    made.rows = all(rows);
    made.row_starts = all(row_starts);
    made.offsets = all(offsets);
    made.offset_starts = all(offset_starts);
    made.tap_starts = all(tap_starts);
    made.weights = all(weights);
    made.weight_starts = all(weight_starts);
    made.flags = all(flags);
    made.bias = all(bias);
    made.runs = all(runs);
    made.tap_sets = all(tap_sets);
    made.tap_set_starts = all(tap_set_starts);
    made.masks = all(masks);
    made.chunk_starts = all(chunk_starts);
    made.part_starts = all(part_starts);
    made.panel_starts = all(panel_starts);
    made.x = x;
    made.y = y;
    made.skip = skip;
    made.tile_vectors = tile_vectors;
    made.prefetch = prefetch;
    made.arena_elements = arena_elements;
    return made;
  }

  std::vector<std::int32_t> rows{0, 1, 0, 1};
  std::vector<std::int64_t> row_starts{0, 2, 4};
  std::vector<std::int32_t> offsets{0, kLanes, 0, kLanes};
  std::vector<std::int64_t> offset_starts{0, 2};
  std::vector<std::int32_t> tap_starts{0, 1, 2, 0, 1, 2};
  std::vector<float> weights = std::vector<float>(8);
  std::vector<std::int64_t> weight_starts{0, 4};
  std::vector<std::int32_t> flags{kFirst, kLast};
  std::vector<float> bias{1.0f, 2.0f};
  std::vector<Run> runs;
  std::vector<std::int32_t> tap_sets{0, 1, 1, 2};
  std::vector<std::int64_t> tap_set_starts{0, 2};
  std::vector<std::int32_t> masks = std::vector<std::int32_t>(kLanes);
  std::vector<std::int64_t> chunk_starts{0, 1, 2}, part_starts{0, 2}, panel_starts{0, 1, 2};
  Planes x{0, 1, 4 * kLanes}, y{8 * kLanes, 2, 2 * kLanes}, skip{16 * kLanes, 2, 2 * kLanes};
  std::int64_t tile_vectors = 0, prefetch = 0, arena_elements = 24 * kLanes;
};

// What is changed, and a part of the message that it must be refused with.
struct Tampering {
  const char* message;
  void (*change)(SmallLayer*);
};

const Tampering kArrays[] = {
    {"there are no groups", [](SmallLayer* l) { l->flags.clear(), l->panel_starts = {0, 0, 0}; }},
    {"differ in length", [](SmallLayer* l) { l->weight_starts.pop_back(); }},
    {"differ in length", [](SmallLayer* l) { l->offset_starts.push_back(0); }},
    {"differ in length", [](SmallLayer* l) { l->tap_starts.push_back(2); }},
    {"row_starts are not", [](SmallLayer* l) { l->row_starts = {1, 2, 4}; }},
    {"row_starts are not", [](SmallLayer* l) { l->row_starts = {0, 5, 4}; }},
    {"row_starts are not", [](SmallLayer* l) { l->row_starts = {0, 2, 3}; }},
    {"tap_starts do not ascend", [](SmallLayer* l) { l->tap_starts[0] = 1; }},
    {"tap_starts do not ascend", [](SmallLayer* l) { l->tap_starts[4] = 3; }},
    {"a group has no rows", [](SmallLayer* l) { l->row_starts = {0, 0, 4}; }},
    {"or more than a kernel takes",
     [](SmallLayer* l) { l->rows.resize(12), l->row_starts = {0, 2, 12}; }},
    {"offsets end before", [](SmallLayer* l) { l->offsets.pop_back(); }},
    {"offsets end before", [](SmallLayer* l) { l->offset_starts[0] = -1; }},
    {"weights end before", [](SmallLayer* l) { l->weights.pop_back(); }},
    {"weights end before", [](SmallLayer* l) { l->weight_starts[0] = -1; }},
    {"bias and output differ", [](SmallLayer* l) { l->bias.pop_back(); }},
    {"tap_sets are not ranges", [](SmallLayer* l) { l->tap_sets.push_back(0); }},
    {"tap_set_starts are not", [](SmallLayer* l) { l->tap_set_starts = {0, 3}; }},
    {"no such tap", [](SmallLayer* l) { l->tap_sets[0] = -1; }},
    {"no such tap", [](SmallLayer* l) { l->tap_sets[3] = 3; }},
    {"no such tap", [](SmallLayer* l) { l->tap_sets[2] = 3; }},
    {"panel_starts are not", [](SmallLayer* l) { l->panel_starts = {0, 1, 3}; }},
    {"part_starts are not", [](SmallLayer* l) { l->part_starts = {0, 1}; }},
    {"chunk_starts are not", [](SmallLayer* l) { l->chunk_starts = {0, 1}; }},
    {"tile_vectors or prefetch", [](SmallLayer* l) { l->tile_vectors = -1; }},
    {"tile_vectors or prefetch", [](SmallLayer* l) { l->prefetch = kOffsetPadding + 1; }},
};

const Tampering kRows[] = {
    {"is in no group", [](SmallLayer* l) { l->y.planes = 5, l->skip.planes = 5, l->bias = {}; }},
    {"not one of the output", [](SmallLayer* l) { l->rows[0] = 2; }},
    {"not one of the output", [](SmallLayer* l) { l->rows[0] = -1; }},
    {"twice in a group", [](SmallLayer* l) { l->rows[3] = 0, l->flags[1] = 0; }},
    {"flags are not", [](SmallLayer* l) { l->flags[0] = 4; }},
    {"not begun by its first group", [](SmallLayer* l) { l->flags[0] = 0; }},
    {"not begun by its first group", [](SmallLayer* l) { l->flags[1] = kFirst | kLast; }},
    {"goes on after its last", [](SmallLayer* l) { l->flags[0] = kFirst | kLast; }},
    {"not ended", [](SmallLayer* l) { l->flags[1] = 0; }},
    {"lie in several parts", [](SmallLayer* l) { l->part_starts = {0, 1, 2}; }},
};

const Tampering kPlaces[] = {
    {"arena's size", [](SmallLayer* l) { l->arena_elements = -1; }},
    {"planes of x are out", [](SmallLayer* l) { l->x.offset = -1; }},
    {"planes of the output are out", [](SmallLayer* l) { l->y.plane = -1; }},
    {"planes of the skip branch are out", [](SmallLayer* l) { l->skip.offset = kHuge; }},
    {"differ in planes", [](SmallLayer* l) { l->skip.planes = 1; }},
    {"planes of the output overlap", [](SmallLayer* l) { l->y.plane = kLanes; }},
    {"a run lies outside", [](SmallLayer* l) { l->runs[0].lanes = 0; }},
    {"a run lies outside", [](SmallLayer* l) { l->runs[0].lanes = kHuge; }},
    {"a run lies outside", [](SmallLayer* l) { l->runs[0].output = kHuge; }},
    {"a run lies outside", [](SmallLayer* l) { l->runs[1].input = -kHuge; }},
    {"a run of the output", [](SmallLayer* l) { l->runs[1].output = 15 * kLanes; }},
    {"a run of the output", [](SmallLayer* l) { l->runs[0].output = -9 * kLanes; }},
    {"a run of the output", [](SmallLayer* l) { l->skip.offset = 21 * kLanes; }},
    {"reads outside", [](SmallLayer* l) { l->offsets[0] = 1 << 30; }},
    {"reads outside", [](SmallLayer* l) { l->offsets[2] = -kSlack - 1; }},
    {"reads outside", [](SmallLayer* l) { l->x.offset = 24 * kLanes; }},
    {"no tap set", [](SmallLayer* l) { l->runs[0].tap_set = 1; }},
    {"no tap set", [](SmallLayer* l) { l->runs[0].tap_set = -1; }},
    {"masks end before", [](SmallLayer* l) { l->runs[0].mask = 1; }},
    {"combines in no known way",
     [](SmallLayer* l) { l->runs[0].combine = static_cast<Combine>(3); }},
    {"pooled and added", [](SmallLayer* l) { l->runs[0].combine = Combine::kMax; }},
    {"two chunks write", [](SmallLayer* l) { l->runs[1].output = 1; }},
    {"two chunks write", [](SmallLayer* l) { l->runs[0].lanes = kLanes + 1; }},
    {"steps lead outside", [](SmallLayer* l) { l->runs[0].input_step = 0; }},
    {"steps lead outside", [](SmallLayer* l) { l->runs[0].output_step = kHuge; }},
    {"output overlap", [](SmallLayer* l) { l->runs[0].output_step = kLanes - 1; }},
    {"are parts, or masked",
     [](SmallLayer* l) { l->runs[0].input_step = 1, l->runs[0].lanes = kLanes - 1; }},
    {"are parts, or masked",
     [](SmallLayer* l) { l->runs[0].output_step = 2 * kLanes, l->runs[0].mask = 0; }},
};

template <std::size_t kCount>
void check_refused(const Tampering (&tamperings)[kCount]) {
  check(SmallLayer().layer());
  for (const Tampering& tampering : tamperings) {
    SmallLayer tampered;
    tampering.change(&tampered);
    std::string message = "nothing";
    try {
      check(tampered.layer());
    } catch (const std::invalid_argument& error) {
      message = error.what();
    }
    expect(message.find(tampering.message) != std::string::npos,
           std::string("expected '") + tampering.message + "', got: " + message);
  }
}

TEST(arrays_of_layers_that_do_not_fit_are_refused) { check_refused(kArrays); }

TEST(rows_that_are_not_summed_once_are_refused) { check_refused(kRows); }

TEST(layers_that_leave_their_arena_are_refused) { check_refused(kPlaces); }

TEST(narrow_layers_refuse_what_they_do_not_offer) {
  SmallLayer given;
  given.skip.planes = 0;
  expect_refused("weights that end within a vector", [&] { Narrow made(given.layer()); });
  given.weights.resize(8 + kNarrowRows);
  Narrow taken(given.layer());
  given.runs[0].input_step = 1;
  expect_refused("vectors that lie apart", [&] { Narrow made(given.layer()); });
  given.runs[0].input_step = kLanes;
  given.runs[0].combine = Combine::kMax;
  expect_refused("pooled rows of several groups", [&] { Narrow made(given.layer()); });
}

}  // namespace
}  // namespace masktools
