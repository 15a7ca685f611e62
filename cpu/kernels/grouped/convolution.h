// Executes packed layers: blocks, rows of nonzeros and dense rows alike.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/grouped/kernel.h"
#include "kernels/grouped/layer.h"

namespace masktools {

// A checked layer, cut into items that may be executed in any order and by any thread.
class Convolution {
 public:
  // Throws std::invalid_argument, naming what is wrong, if any array is inconsistent or any item
  // would read or write outside the arena.
  explicit Convolution(const Layer& layer);

  std::int64_t items() const { return chunks_ * parts_; }

  // Elements of scratch that `execute` needs, for each thread; 64-byte aligned.
  std::int64_t scratch_elements() const { return scratch_elements_; }

  // Executes one item. `arena` is element 0; 64-byte aligned.
  void execute(std::int64_t item, float* arena, float* scratch) const;

 private:
  // Neighbouring groups of the same height, which one kernel call goes over.
  struct Stretch {
    std::int64_t first, last;
    std::int64_t rows;
  };

  void collect_groups();
  void execute_run(const Run& run, std::int64_t first_panel, std::int64_t last_panel, float* arena,
                   float* scratch) const;
  void execute_tile(const Tile& whole, const Stretch& stretch) const;

  Layer layer_;
  Call call_;
  std::vector<Group> groups_;
  std::vector<Stretch> stretches_;
  std::vector<std::int64_t> panel_stretches_;  // the first of each panel, and the number of all
  std::int64_t chunks_ = 0;
  std::int64_t parts_ = 0;
  bool partial_sums_apart_ = false;  // in scratch, not in the output
  std::int64_t scratch_elements_ = 0;
};

}  // namespace masktools
