// Memory of arenas and scratch.
#pragma once

#include <cstddef>
#include <cstdint>

namespace masktools {

// Zeros, aligned to 64 bytes at least; to the size of a huge page, and backed by such where the
// system has them, if there is one to fill: gathered columns lie in as many pages as planes.
class Memory {
 public:
  // Throws std::bad_alloc.
  explicit Memory(std::int64_t bytes);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::byte* data() const { return data_; }

 private:
  void* allocation_ = nullptr;
  std::size_t allocated_ = 0;
  std::byte* data_ = nullptr;
};

}  // namespace masktools
