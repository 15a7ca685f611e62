#include "kernels/grouped/layer.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "simd/vector.h"

namespace masktools {
namespace {

// Larger arenas, and indices into them, are refused: sums of a few of them cannot overflow.
constexpr std::int64_t kLargest = std::int64_t{1} << 44;

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(std::string("layer: ") + what);
}

bool within(std::int64_t value, std::int64_t low, std::int64_t high) {
  return low <= value && value <= high;
}

// The least and the largest of some numbers.
struct Range {
  std::int64_t low = std::numeric_limits<std::int64_t>::max();
  std::int64_t high = std::numeric_limits<std::int64_t>::min();

  bool empty() const { return low > high; }
  void include(std::int64_t value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  void include(const Range& other) {
    low = std::min(low, other.low);
    high = std::max(high, other.high);
  }
};

// Starts of parts of `entries` things: from 0, never falling, to the end.
void check_starts(const Array<std::int64_t>& starts, std::int64_t entries, const char* what) {
  require(starts.size >= 1 && starts[0] == 0, what);
  for (std::int64_t i = 1; i < starts.size; ++i) require(starts[i - 1] <= starts[i], what);
  require(starts[starts.size - 1] == entries, what);
}

void check_planes(const Planes& planes, std::int64_t arena_elements, const char* what) {
  require(within(planes.offset, 0, arena_elements) && within(planes.planes, 0, kLargest) &&
              within(planes.plane, 0, arena_elements) &&
              (planes.planes == 0 || planes.plane <= kLargest / planes.planes),
          what);
}

// Checks each group's rows, columns and weights; returns the offsets that each tap reads.
std::vector<Range> check_groups(const Layer& layer, const WeightStorage& storage) {
  const std::int64_t groups = layer.flags.size;
  require(groups >= 1, "there are no groups");
  require(layer.row_starts.size == groups + 1 && layer.offset_starts.size == groups &&
              layer.weight_starts.size == groups && layer.tap_starts.size % groups == 0 &&
              layer.tap_starts.size >= groups,
          "arrays of groups differ in length");
  check_starts(layer.row_starts, layer.rows.size, "row_starts are not starts of rows");
  const std::int64_t taps = layer.tap_starts.size / groups - 1;
  std::vector<Range> reads(static_cast<std::size_t>(taps));
  for (std::int64_t g = 0; g < groups; ++g) {
    const std::int32_t* starts = layer.tap_starts.data + g * (taps + 1);
    require(starts[0] == 0 && std::is_sorted(starts, starts + taps + 1),
            "tap_starts do not ascend from 0");
    const std::int64_t columns = starts[taps], first = layer.offset_starts[g];
    const std::int64_t rows = layer.row_starts[g + 1] - layer.row_starts[g];
    require(within(rows, 1, storage.max_rows), "a group has no rows, or more than a kernel takes");
    require(within(first, 0, layer.offsets.size - kOffsetPadding - columns),
            "offsets end before a group's list and its padding");
    require(within(layer.weight_starts[g], 0, layer.weights.size - storage.size(rows, columns)),
            "weights end before a group's");
    // Neighbours often share their list.
    if (g > 0 && first == layer.offset_starts[g - 1] &&
        std::memcmp(starts, starts - (taps + 1), sizeof(*starts) * (taps + 1)) == 0) {
      continue;
    }
    for (std::int64_t tap = 0; tap < taps; ++tap) {
      const auto ends = std::minmax_element(layer.offsets.data + first + starts[tap],
                                            layer.offsets.data + first + starts[tap + 1]);
      if (starts[tap] == starts[tap + 1]) continue;
      reads[tap].include(*ends.first);
      reads[tap].include(*ends.second);
    }
  }
  return reads;
}

// Checks that each row is begun once, ended once, and lies in one part.
void check_rows(const Layer& layer) {
  enum : std::int8_t { kNew, kOpen, kDone };
  const std::size_t planes = static_cast<std::size_t>(layer.y.planes);
  require(layer.y.planes <= layer.rows.size, "a row of the output is in no group");
  std::vector<std::int8_t> state(planes, kNew);
  std::vector<std::int64_t> part_of(planes), group_of(planes, -1);
  for (std::int64_t part = 0; part + 1 < layer.part_starts.size; ++part) {
    const std::int64_t first = layer.panel_starts[layer.part_starts[part]];
    const std::int64_t last = layer.panel_starts[layer.part_starts[part + 1]];
    for (std::int64_t g = first; g < last; ++g) {
      const std::int32_t flags = layer.flags[g];
      require(within(flags, 0, kFirst | kLast), "flags are not GroupFlags");
      for (std::int64_t i = layer.row_starts[g]; i < layer.row_starts[g + 1]; ++i) {
        const std::int64_t row = layer.rows[i];
        require(within(row, 0, layer.y.planes - 1), "a row is not one of the output");
        require(state[row] == ((flags & kFirst) ? kNew : kOpen),
                "a row is not begun by its first group alone, or goes on after its last");
        require(group_of[row] != g, "a row is twice in a group");
        require((flags & kFirst) || part_of[row] == part, "a row's groups lie in several parts");
        state[row] = (flags & kLast) ? kDone : kOpen;
        part_of[row] = part;
        group_of[row] = g;
      }
    }
  }
  for (std::int8_t s : state) require(s == kDone, "a row of the output is not ended");
}

// Checks the sets of taps; returns the offsets that each reads.
std::vector<Range> check_tap_sets(const Layer& layer, const std::vector<Range>& reads) {
  check_starts(layer.tap_set_starts, layer.tap_sets.size / 2, "tap_set_starts are not starts");
  std::vector<Range> of_set(static_cast<std::size_t>(layer.tap_set_starts.size - 1));
  for (std::size_t set = 0; set < of_set.size(); ++set) {
    for (std::int64_t i = layer.tap_set_starts[set]; i < layer.tap_set_starts[set + 1]; ++i) {
      const std::int32_t first = layer.tap_sets[2 * i], last = layer.tap_sets[2 * i + 1];
      require(0 <= first && first <= last && last <= static_cast<std::int64_t>(reads.size()),
              "a tap set has no such tap");
      for (std::int32_t tap = first; tap < last; ++tap) of_set[set].include(reads[tap]);
    }
  }
  return of_set;
}

// Checks that a run's vectors lie as kernels find them, within so many elements.
void check_steps(const Run& run, std::int64_t elements) {
  const std::int64_t after_first = (run.lanes + kLanes - 1) / kLanes - 1;
  for (std::int64_t step : {run.input_step, run.output_step}) {
    require(within(step, 1, std::max<std::int64_t>(elements, kLanes)) &&
                after_first <= elements / step + 1,
            "a run's steps lead outside the arena");
  }
  require(run.output_step >= kLanes, "vectors of a run's output overlap");
  require(is_contiguous(run) || (run.lanes % kLanes == 0 && run.mask == -1),
          "vectors of a run that lie apart are parts, or masked");
}

// Elements from the first to behind the last that a run writes.
std::int64_t extent(const Run& run) {
  const std::int64_t last = (run.lanes - 1) / kLanes;
  return last * run.output_step + run.lanes - last * kLanes;
}

// Checks what each run reads and writes. Whole vectors are read, the slack included; lanes alone
// are written.
void check_runs(const Layer& layer, const std::vector<Range>& reads) {
  const std::int64_t elements = layer.arena_elements;
  Range outputs;
  for (std::int64_t i = 0; i < layer.runs.size; ++i) {
    const Run& run = layer.runs[i];
    // Where an input begins says little before taps are added to it: rows far up in the padding
    // begin far before the arena, and read inside it or nowhere.
    require(within(run.lanes, 1, elements) && within(run.output, -elements, elements) &&
                within(run.input, -kLargest, kLargest),
            "a run lies outside the arena");
    check_steps(run, elements);
    const std::int64_t whole = (run.lanes + kLanes - 1) / kLanes * kLanes;
    require(within(run.tap_set, 0, static_cast<std::int64_t>(reads.size()) - 1),
            "a run has no tap set");
    require(run.mask == -1 || within(run.mask, 0, layer.masks.size - whole),
            "masks end before a run's");
    require(within(static_cast<std::int64_t>(run.combine), 0, 2), "a run combines in no known way");
    require(run.combine == Combine::kStore || layer.skip.planes == 0,
            "sums cannot be pooled and added to a skip branch");
    outputs.include(run.output);
    outputs.include(run.output + extent(run));
    const Range& offsets = reads[run.tap_set];
    const std::int64_t x = layer.x.offset + run.input;
    const std::int64_t last = (whole / kLanes - 1) * run.input_step;
    require(offsets.empty() || (within(x + offsets.low, -kSlack, elements) &&
                                x + offsets.high + last + kLanes <= elements + kSlack),
            "a run reads outside the arena");
  }
  if (outputs.empty() || layer.y.planes == 0) return;
  const auto check_output = [&](const Planes& planes) {
    require(planes.offset + outputs.low >= 0 &&
                planes.offset + (planes.planes - 1) * planes.plane + outputs.high <= elements,
            "a run of the output or of the skip branch lies outside the arena");
  };
  check_output(layer.y);
  require(layer.y.planes == 1 || outputs.high - outputs.low <= layer.y.plane,
          "planes of the output overlap");
  if (layer.skip.planes > 0) check_output(layer.skip);
}

// Checks that runs of different chunks write different lanes.
void check_chunks(const Layer& layer) {
  check_starts(layer.chunk_starts, layer.runs.size, "chunk_starts are not starts of runs");
  struct Piece {  // of neighbouring lanes
    std::int64_t begin, end, chunk;
  };
  std::vector<Piece> pieces;
  for (std::int64_t c = 0; c + 1 < layer.chunk_starts.size; ++c) {
    for (std::int64_t i = layer.chunk_starts[c]; i < layer.chunk_starts[c + 1]; ++i) {
      const Run& run = layer.runs[i];
      const std::int64_t length = run.output_step == kLanes ? run.lanes : kLanes;
      for (std::int64_t at = run.output; at < run.output + extent(run); at += run.output_step) {
        pieces.push_back({at, at + length, c});
        if (length == run.lanes) break;
      }
    }
  }
  std::sort(pieces.begin(), pieces.end(),
            [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
  Piece last = {0, std::numeric_limits<std::int64_t>::min(), 0};
  for (const Piece& piece : pieces) {
    require(piece.begin >= last.end || piece.chunk == last.chunk,
            "two chunks write the same lanes");
    if (piece.end >= last.end) last = piece;
  }
}

}  // namespace

bool is_contiguous(const Run& run) { return run.input_step == kLanes && run.output_step == kLanes; }

void check(const Layer& layer, const WeightStorage& storage) {
  require(within(layer.arena_elements, 0, kLargest), "the arena's size is out of range");
  check_planes(layer.x, layer.arena_elements, "the planes of x are out of range");
  check_planes(layer.y, layer.arena_elements, "the planes of the output are out of range");
  check_planes(layer.skip, layer.arena_elements, "the planes of the skip branch are out of range");
  require(layer.skip.planes == 0 || layer.skip.planes == layer.y.planes,
          "the skip branch and the output differ in planes");
  require(layer.bias.size == 0 || layer.bias.size == layer.y.planes,
          "bias and output differ in planes");
  require(layer.tap_sets.size % 2 == 0, "tap_sets are not ranges");
  require(within(layer.tile_vectors, 0, kLargest) && within(layer.prefetch, 0, kOffsetPadding),
          "tile_vectors or prefetch is out of range");
  check_starts(layer.panel_starts, layer.flags.size, "panel_starts are not starts of groups");
  check_starts(layer.part_starts, layer.panel_starts.size - 1,
               "part_starts are not starts of panels");
  const std::vector<Range> reads = check_groups(layer, storage);
  check_rows(layer);
  check_runs(layer, check_tap_sets(layer, reads));
  check_chunks(layer);
}

}  // namespace masktools
