// Executes layers whose output has few lanes, such as products and small maps of one image: the
// rows of a group are the lanes of vectors, and pixels are broadcast.
#pragma once

#include <cstdint>
#include <vector>

#include "layer.h"

namespace masktools {

// A checked layer, cut into the parts of its groups. Each weight is read once, in order, which is
// what bounds these layers; a tap is multiplied for the pixels that it meets inside the image and
// for no others.
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
  // One lane of the output. Masked lanes are written as zeros.
  struct Lane {
    std::int64_t output;
    Combine combine;
    bool masked;
  };

  // Taps [first, last) and the lanes that they meet: `inputs` from the beginning of a plane of x,
  // `lanes` in the order of lanes_.
  struct Segment {
    std::int64_t first, last;
    std::vector<std::int64_t> inputs;
    std::vector<std::int32_t> lanes;
  };

  void collect_lanes();
  void collect_segments();
  bool is_pair(std::int64_t group) const;
  void accumulate(std::int64_t group, std::int64_t groups, const float* arena, float* sums) const;
  void finish(std::int64_t group, const float* sums, float* arena) const;

  Layer layer_;
  std::vector<Lane> lanes_;
  std::vector<Segment> segments_;
};

}  // namespace masktools
