#include "program/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace masktools {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

std::size_t rounded_up(std::size_t n, std::size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

}  // namespace

#if defined(__SANITIZE_ADDRESS__)

// From the heap, whose borders the sanitizer watches.
Memory::Memory(std::int64_t bytes) {
  allocated_ = rounded_up(std::max<std::size_t>(static_cast<std::size_t>(bytes), 1), kAlignment);
  allocation_ = std::aligned_alloc(kAlignment, allocated_);
  if (allocation_ == nullptr) throw std::bad_alloc();
  std::memset(allocation_, 0, allocated_);
  data_ = static_cast<std::byte*>(allocation_);
}

Memory::~Memory() { std::free(allocation_); }

#else

// From the system: zeros that take no memory before they are written.
Memory::Memory(std::int64_t bytes) {
  const auto size = std::max<std::size_t>(static_cast<std::size_t>(bytes), 1);
  const bool huge = size >= kHugePage;
  allocated_ = huge ? rounded_up(size, kHugePage) + kHugePage : size;
  allocation_ =
      mmap(nullptr, allocated_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (allocation_ == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<std::byte*>(allocation_);
  if (!huge) return;
  const auto address = reinterpret_cast<std::uintptr_t>(allocation_);
  data_ += rounded_up(address, kHugePage) - address;
#if defined(MADV_HUGEPAGE)
  madvise(data_, rounded_up(size, kHugePage), MADV_HUGEPAGE);  // a wish: no error if refused
#endif
}

Memory::~Memory() { munmap(allocation_, allocated_); }

#endif

}  // namespace masktools
