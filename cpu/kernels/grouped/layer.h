// What a convolution or a product is to the kernels: packed arrays, made once when a program is
// built. Dense layers, blocks, rows of nonzeros, depthwise and grouped convolutions differ in these
// arrays alone.
#pragma once

#include <cstdint>

#include "program/arena.h"
#include "simd/activation.h"

namespace masktools {

// Entries that `Layer::offsets` holds beyond the last list: prefetching looks that far ahead.
constexpr std::int64_t kOffsetPadding = 64;

// How a run's lanes meet what the output holds already: fused pooling.
enum class Combine : std::int64_t { kStore, kMax, kAdd };

// Lanes of the output whose taps inside the image are the same: vectors of neighbours, all as far
// apart. Python passes an array of them, by its dtype (binding/arguments.cpp).
struct Run {
  std::int64_t input;    // first lane, from the beginning of a plane of x
  std::int64_t output;   // first lane, from the beginning of a plane of y (and of skip)
  std::int64_t lanes;    // at least 1
  std::int64_t tap_set;  // which taps are inside the image
  std::int64_t mask;     // -1, or where the run's lane masks begin: 0 writes zero, -1 the sum
  Combine combine;
  std::int64_t input_step;   // from one vector of x to the next
  std::int64_t output_step;  // from one vector of y to the next; at least a vector
};

// Groups are rows of y that read the same columns. They are executed in order, and a row may lie
// in several groups: the first begins with the bias and the skip branch, the others add to what the
// row holds, the last runs the epilogue. So the output may be written over the skip branch.
enum GroupFlags : std::int32_t { kFirst = 1, kLast = 2 };

// A packed layer. G groups, T taps, S tap sets; starts are the first entry of each part, and one
// more that ends the last. All arrays outlive the Convolution.
struct Layer {
  Array<std::int32_t> rows;           // planes of y that the groups write, end to end
  Array<std::int64_t> row_starts;     // [G + 1]; 1 to kMaxRows rows a group
  Array<std::int32_t> offsets;        // of each column from a run's input; kOffsetPadding more
  Array<std::int64_t> offset_starts;  // [G]; groups may share a list
  Array<std::int32_t> tap_starts;     // [G][T + 1]; from 0 to the number of columns K
  Array<float> weights;               // [K][R] a group
  Array<std::int64_t> weight_starts;  // [G]
  Array<std::int32_t> flags;          // [G] of GroupFlags
  Array<float> bias;                  // [y.planes], or empty for zeros
  Array<Run> runs;
  Array<std::int32_t> tap_sets;        // ranges of taps [first, last), two entries each
  Array<std::int64_t> tap_set_starts;  // [S + 1], in ranges
  Array<std::int32_t> masks;           // lane masks

  // How the work is cut. An item is one chunk of runs times one part of the groups; within an
  // item, one panel of groups after the other goes over all runs of the chunk, so that its weights
  // stay in cache. A row's groups lie in one part, runs that write the same lanes in one chunk.
  Array<std::int64_t> chunk_starts;  // in runs
  Array<std::int64_t> part_starts;   // in panels
  Array<std::int64_t> panel_starts;  // in groups

  Planes x, y, skip;  // skip.planes == 0: no skip add
  Activation activation;
  float scale = 1.0f;  // what is written is activation(...) * scale (mean pooling)

  std::int64_t tile_vectors = 0;    // lanes that all groups of a panel run over before the next
                                    // lanes, in vectors; 0: as many as the widest kernel holds
  std::int64_t prefetch = 0;        // columns to prefetch ahead; 0: none
  bool parts_first = false;         // neighbouring items are parts of one chunk, not the chunks
                                    // of one part
  std::int64_t arena_elements = 0;  // without the slack at both ends
};

// Rows that a group may hold.
constexpr std::int64_t kMaxRows = 8;

// How weights are stored: the rows that a group may hold, and the entries of `Layer::weights` that
// a group of so many rows and columns takes.
struct WeightStorage {
  std::int64_t max_rows;
  std::int64_t (*size)(std::int64_t rows, std::int64_t columns);
};

// [K][R] a group.
constexpr WeightStorage kPlainWeights = {
    kMaxRows, [](std::int64_t rows, std::int64_t columns) { return rows * columns; }};

// Whether the vectors of a run follow each other. Where they do not, they are whole and unmasked.
bool is_contiguous(const Run& run);

// Throws std::invalid_argument, naming what is wrong, if any array is inconsistent or executing the
// layer would read or write outside the arena, or write a lane from two items.
void check(const Layer& layer, const WeightStorage& storage = kPlainWeights);

}  // namespace masktools
