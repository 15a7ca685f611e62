// Lanes of two vectors, put in another order.
#pragma once

#include <utility>

#include "simd/vector.h"

namespace masktools {

// The lanes of a and then of b that have these numbers, for vectors of any type.
template <class V, int... kLane>
inline V pick(V a, V b, std::integer_sequence<int, kLane...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, kLane...);
#else
  using Mask = decltype(a == b);
  return __builtin_shuffle(a, b, Mask{kLane...});
#endif
}

// Every second lane of a and then of b, from the first (0) or the second (1) on.
template <int kFrom, int... kIndex>
inline Vector every_second(Vector a, Vector b, std::integer_sequence<int, kIndex...>) {
  return pick(a, b, std::integer_sequence<int, 2 * kIndex + kFrom...>());
}

template <int kFrom>
inline Vector every_second(Vector a, Vector b) {
  return every_second<kFrom>(a, b, std::make_integer_sequence<int, kLanes>());
}

// Lanes of a and of b in turn, of their first (0) or of their second half (1).
template <int kHalf, int... kIndex>
inline Vector in_turn(Vector a, Vector b, std::integer_sequence<int, kIndex...>) {
  return pick(
      a, b, std::integer_sequence<int, kHalf * kLanes / 2 + kIndex / 2 + kIndex % 2 * kLanes...>());
}

template <int kHalf>
inline Vector in_turn(Vector a, Vector b) {
  return in_turn<kHalf>(a, b, std::make_integer_sequence<int, kLanes>());
}

// All lanes of a but its first, and one lane of b behind them.
template <int kLane, int... kIndex>
inline Vector followed(Vector a, Vector b, std::integer_sequence<int, kIndex...>) {
  return pick(a, b, std::integer_sequence<int, kIndex + 1 ..., kLanes + kLane>());
}

template <int kLane>
inline Vector followed(Vector a, Vector b) {
  return followed<kLane>(a, b, std::make_integer_sequence<int, kLanes - 1>());
}

}  // namespace masktools
