// Executes layers whose output has few lanes, such as products and small maps of few images: the
// rows of a group are the lanes of vectors, and pixels are broadcast.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/grouped/layer.h"
#include "simd/vector.h"

namespace masktools {

// Rows that a group may hold here.
constexpr std::int64_t kNarrowRows = 2 * kLanes;

// [K][R] a group, and of several rows as much more as loading the last column in whole vectors
// reads.
constexpr WeightStorage kNarrowWeights = {
    kNarrowRows, [](std::int64_t rows, std::int64_t columns) {
      const std::int64_t last = rows == 1 ? 1 : (rows + kLanes - 1) / kLanes * kLanes;
      return columns == 0 ? 0 : (columns - 1) * rows + last;
    }};

// A checked layer, cut into the parts of its groups. A tap is multiplied for the pixels that it
// meets inside the image and for no others, so neither halos nor strides cost anything. Weights
// are read from memory once, in order, which is what bounds the layers of fewest lanes.
//
// Of the layer's description it leaves out what cuts lanes: chunks, tiles.
class Narrow {
 public:
  // Throws std::invalid_argument, naming what is wrong, if any array is inconsistent or any item
  // would read or write outside the arena.
  explicit Narrow(const Layer& layer);

  std::int64_t items() const { return layer_.part_starts.size - 1; }

  // Elements of scratch that `execute` needs, for each thread; 64-byte aligned.
  std::int64_t scratch_elements() const;

  // Executes one item. `arena` is element 0; 64-byte aligned.
  void execute(std::int64_t item, float* arena, float* scratch) const;

 private:
  // Lanes [first, last) in the order of the runs, that lie side by side in y from `output` on.
  struct Span {
    std::int64_t output, first, last;
    Combine combine;
  };

  // Taps [first, last) and the lanes that they meet: `inputs` from the beginning of a plane of x.
  struct Segment {
    std::int64_t first, last;
    std::vector<std::int64_t> inputs;
    std::vector<std::int32_t> lanes;
  };

  void collect_spans();
  void collect_segments();
  std::int64_t line_elements() const;
  void accumulate(std::int64_t group, const float* arena, float* sums) const;
  void finish(std::int64_t group, const float* sums, float* line, float* arena) const;
  void write(const Span& span, std::int64_t row, std::int32_t flags, const float* sums,
             float* arena) const;

  Layer layer_;
  std::int64_t lanes_ = 0;
  std::vector<std::int32_t> masks_;  // by lane: 0 is written as zero, -1 as the sum
  std::vector<Span> spans_;
  std::vector<Segment> segments_;
};

}  // namespace masktools
