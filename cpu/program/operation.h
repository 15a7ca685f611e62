// What a program is made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace masktools {

// What one call of a program works on.
struct Buffers {
  std::byte* arena;            // element 0, 64-byte aligned; kSlack elements before and behind
  const float* const* inputs;  // C-contiguous
  float* const* outputs;       // C-contiguous
};

// One operation, checked when it was made and immutable since: calls in several threads share it.
class Operation {
 public:
  virtual ~Operation() = default;

  // Items of work; each may be executed in any order and by any thread.
  virtual std::int64_t items() const = 0;

  // Of scratch that `execute` needs.
  virtual std::int64_t scratch_bytes() const { return 0; }

  // Executes one item. `scratch` belongs to the thread; 64-byte aligned.
  virtual void execute(std::int64_t item, const Buffers& buffers, std::byte* scratch) const = 0;
};

// Makes an operation of a kernel that works on an arena of T:
//   std::int64_t items() const, scratch_elements() const;
//   void execute(std::int64_t item, T* arena, T* scratch) const;
template <class Kernel, class T = float>
class KernelOperation final : public Operation {
 public:
  template <class... Arguments>
  explicit KernelOperation(Arguments&&... arguments)
      : kernel_(std::forward<Arguments>(arguments)...) {}

  std::int64_t items() const override { return kernel_.items(); }
  std::int64_t scratch_bytes() const override {
    return kernel_.scratch_elements() * static_cast<std::int64_t>(sizeof(T));
  }
  void execute(std::int64_t item, const Buffers& buffers, std::byte* scratch) const override {
    kernel_.execute(item, reinterpret_cast<T*>(buffers.arena), reinterpret_cast<T*>(scratch));
  }

 private:
  const Kernel kernel_;
};

// Cuts `size` units into `items` parts that differ by one at most; returns where part `item`
// begins.
inline std::int64_t part_start(std::int64_t item, std::int64_t items, std::int64_t size) {
  return size / items * item + size % items * item / items;
}

}  // namespace masktools
