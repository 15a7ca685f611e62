// Executes packed layers: blocks, rows of nonzeros and dense rows alike.
#pragma once

#include <cstdint>

#include "layer.h"

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
  Layer layer_;
  std::int64_t chunks_ = 0;
  std::int64_t parts_ = 0;
  std::int64_t scratch_elements_ = 0;
};

}  // namespace masktools
