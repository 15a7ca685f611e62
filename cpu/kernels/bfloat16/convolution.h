// Executes packed layers on an arena of bfloat16. Sums are floats from the bias to the epilogue;
// values are rounded when they are stored.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/bfloat16/product.h"
#include "kernels/grouped/layer.h"
#include "program/operation.h"
#include "simd/epilogue.h"

namespace masktools {

// A checked layer, as `Convolution` executes it, with other weights and groups of any height:
//
// - a group of several rows: Bfloat16, tiles of 16 rows and 32 columns, as `Product` takes them;
// - a group of one row: floats that are bfloat16 numbers, one a column, two entries each.
//
// Each begins at a multiple of 64 bytes. Of the description of a layer it leaves out sources, the
// length of tiles and prefetching; sums must not be pooled (maxima may).
class Bfloat16Convolution final : public Operation {
 public:
  // `layer.weights` is empty. Throws std::invalid_argument, naming what is wrong.
  Bfloat16Convolution(const Layer& layer, Array<Bfloat16> weights, const ProductKernel& kernel);

  std::int64_t items() const override { return chunks_ * parts_; }
  std::int64_t scratch_bytes() const override;
  void execute(std::int64_t item, const Buffers& buffers, std::byte* scratch) const override;

 private:
  struct Tile;     // lanes that all groups go over before the next
  struct Scratch;  // of one thread

  void execute_run(const Run& run, std::int64_t first, std::int64_t last, Bfloat16* arena,
                   const Scratch& scratch) const;
  void multiply(std::int64_t group, const Tile& tile, const Scratch& scratch) const;
  void add_row(std::int64_t group, const Tile& tile, const Scratch& scratch) const;
  void finish(std::int64_t group, const Tile& tile, const Scratch& scratch) const;
  template <class Activate>
  void write(std::int64_t first, std::int64_t last, const Tile& tile, const Scratch& scratch,
             const Activate& activated) const;

  Layer layer_;
  Array<Bfloat16> weights_;
  const ProductKernel& kernel_;
  std::int64_t taps_;
  std::int64_t chunks_, parts_;
  std::int64_t most_rows_ = 0, most_tiles_ = 0;  // of a group: of rows in whole tiles, of columns
  Bounds bounds_;
  bool bounded_ = true;           // the activation is `bounds_`
  bool summed_in_parts_ = false;  // some row lies in several groups
};

}  // namespace masktools
