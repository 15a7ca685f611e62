// The storage type bfloat16: a float without its lower 16 bits of mantissa. Arithmetic is done in
// float; values are rounded when they are stored.
#pragma once

#include <cstdint>
#include <cstring>

namespace masktools {

// Plain integer arithmetic, so that loops over arrays of it become vector code everywhere.
struct Bfloat16 {
  std::uint16_t bits;

  Bfloat16() = default;

  // Rounds to the nearest, ties to even: what lies beyond the largest becomes infinite. A NaN
  // stays one (rounded as a number, it might become infinite), made quiet.
  explicit Bfloat16(float value) {
    std::uint32_t word;
    std::memcpy(&word, &value, sizeof(word));
    const std::uint32_t rounded = word + 0x7fff + ((word >> 16) & 1);
    const std::uint32_t quiet = word | 0x00400000;
    bits = static_cast<std::uint16_t>((value != value ? quiet : rounded) >> 16);
  }

  // Exact.
  explicit operator float() const {
    const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &word, sizeof(value));
    return value;
  }
};

static_assert(sizeof(Bfloat16) == 2, "an arena of Bfloat16 is one of 16-bit words");

}  // namespace masktools
