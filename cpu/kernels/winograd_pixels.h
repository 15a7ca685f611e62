// Tiles of single pixels side by side: a row of pixels taken apart by their place in the tile, and
// put together again, in whole vectors.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/winograd_transform.h"
#include "simd/shuffle.h"
#include "simd/vector.h"

namespace masktools {

// Pixels [x, x + kLanes) of a row of `width`, and zeros beside it.
inline Vector pixels(const float* row, std::int64_t x, std::int64_t width) {
  if (x >= 0 && x + kLanes <= width) return load(row + x);
  const auto lane = [](std::int64_t at) { return std::clamp<std::int64_t>(at, 0, kLanes); };
  return load(row + x, lane(-x), lane(width - x));
}

// The inputs of `tiles` tiles from one of their rows, the first of which begins at pixel x:
// to[j * lanes + t] is pixel x + 4 * t + j of the row, for j from 0 to 5.
inline void take_apart(const float* row, std::int64_t x, std::int64_t width, std::int64_t tiles,
                       float* to, std::int64_t lanes) {
  static_assert(kTileOut == 4 && kTile == 6);
  for (std::int64_t tile = 0; tile < tiles; tile += kLanes, x += kTileOut * kLanes) {
    Vector at[kTileOut + 1];
    for (int i = 0; i <= kTileOut; ++i) at[i] = pixels(row, x + i * kLanes, width);
    const Vector even_0 = every_second<0>(at[0], at[1]), even_1 = every_second<0>(at[2], at[3]);
    const Vector odd_0 = every_second<1>(at[0], at[1]), odd_1 = every_second<1>(at[2], at[3]);
    Vector of[kTile];
    of[0] = every_second<0>(even_0, even_1);
    of[1] = every_second<0>(odd_0, odd_1);
    of[2] = every_second<1>(even_0, even_1);
    of[3] = every_second<1>(odd_0, odd_1);
    of[4] = followed<0>(of[0], at[4]);
    of[5] = followed<1>(of[1], at[4]);
    const std::int64_t left = tiles - tile;
    for (int j = 0; j < kTile; ++j) {
      if (left >= kLanes) {
        store(to + j * lanes + tile, of[j]);
      } else {
        store(to + j * lanes + tile, of[j], left);
      }
    }
  }
}

// Outputs of `tiles` tiles in the order of their pixels: to[4 * t + j] = from[j * lanes + t]. Whole
// vectors are read and written.
inline void put_together(const float* from, std::int64_t lanes, std::int64_t tiles, float* to) {
  static_assert(kTileOut == 4);
  for (std::int64_t tile = 0; tile < tiles; tile += kLanes, to += kTileOut * kLanes) {
    Vector of[kTileOut];
    for (int j = 0; j < kTileOut; ++j) of[j] = load(from + j * lanes + tile);
    const Vector even_0 = in_turn<0>(of[0], of[2]), even_1 = in_turn<1>(of[0], of[2]);
    const Vector odd_0 = in_turn<0>(of[1], of[3]), odd_1 = in_turn<1>(of[1], of[3]);
    store(to, in_turn<0>(even_0, odd_0));
    store(to + kLanes, in_turn<1>(even_0, odd_0));
    store(to + 2 * kLanes, in_turn<0>(even_1, odd_1));
    store(to + 3 * kLanes, in_turn<1>(even_1, odd_1));
  }
}

}  // namespace masktools
