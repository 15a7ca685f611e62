// The memory that all values of a program share, and how operations name a part of it.
#pragma once

#include <cstdint>

namespace masktools {

// Elements that may be read, and never matter, before the first and after the last element of an
// arena: whole vectors are loaded where a part of one is used.
constexpr std::int64_t kSlack = 64;

// A value in the arena: plane p begins at element offset + p * plane.
struct Planes {
  std::int64_t offset = 0;
  std::int64_t planes = 0;
  std::int64_t plane = 0;
};

// An array that somebody else owns and keeps alive.
template <class T>
struct Array {
  const T* data = nullptr;
  std::int64_t size = 0;

  const T& operator[](std::int64_t i) const { return data[i]; }
};

}  // namespace masktools
