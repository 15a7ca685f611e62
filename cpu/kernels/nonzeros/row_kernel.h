// Micro-kernels for rows of nonzeros: the sums of a row over one tile of outputs, kept in
// registers, from inputs that lie in the first level of the cache.
#pragma once

#include <cstdint>

#include "simd/vector.h"

namespace masktools {

// Vectors that a kernel keeps sums of: half of the registers. Sums are stored and loaded for each
// panel of channels, of which the cache holds the fewer the larger the tile is.
constexpr std::int64_t kRowVectors = kRegisters / 2;

// Nonzeros of some rows in one panel of channels.
struct Nonzeros {
  const float* weights;
  const std::uint16_t* offsets;  // of their inputs from the window's first
  const std::int32_t* starts;    // [rows + 1]: where each row's begin, and the last ends
};

// sums[row][i][j] = or += weight * window[offset + i * pitch + j], summed over a row's nonzeros,
// for i rows of j vectors. A kernel's sums lie side by side, those of one row after the other's.
using RowKernel = void (*)(const Nonzeros& nonzeros, std::int64_t rows, const float* window,
                           std::int64_t pitch, bool add, float* sums);

// The kernel of tiles of so many rows of vectors; their product is 1 to kRowVectors.
RowKernel row_kernel(std::int64_t rows, std::int64_t vectors);

}  // namespace masktools
