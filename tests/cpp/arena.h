// The memory that kernels are tried on.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "check.h"
#include "kernels/grouped/layer.h"
#include "program/operation.h"

namespace masktools {

// Elements as programs have them: the first on a cache line, and kSlack more on each side, which
// may be read and must never matter: NaNs.
template <class T>
class Arena {
 public:
  explicit Arena(const std::vector<T>& elements)
      : size_(elements.size()), storage_(size_ + 2 * kSlack + kLine, nan()) {
    const auto address = reinterpret_cast<std::uintptr_t>(storage_.data() + kSlack);
    first_ = kSlack + (64 - address % 64) % 64 / sizeof(T);
    std::copy(elements.begin(), elements.end(), data());
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  static T nan() { return static_cast<T>(std::numeric_limits<float>::quiet_NaN()); }

  T* data() { return storage_.data() + first_; }

  // Throws if anything was written around them.
  std::vector<T> elements() const {
    const T unwritten = nan();
    for (std::size_t i = 0; i < storage_.size(); ++i) {
      const bool around = i < first_ || i >= first_ + size_;
      if (around) {
        expect(std::memcmp(&storage_[i], &unwritten, sizeof(T)) == 0, "the slack was written");
      }
    }
    return {storage_.begin() + first_, storage_.begin() + first_ + size_};
  }

 private:
  static constexpr std::size_t kLine = 64 / sizeof(T);

  std::size_t size_;
  std::vector<T> storage_;
  std::size_t first_;
};

// What is in an arena after execute(item, arena, scratch) of all items, the last first. Scratch
// begins as NaNs: nothing that matters may come from there unwritten.
template <class T, class Execute>
std::vector<T> executed(const std::vector<T>& elements, std::int64_t items,
                        std::int64_t scratch_elements, const Execute& execute) {
  Arena<T> arena(elements);
  Arena<T> scratch(std::vector<T>(scratch_elements, Arena<T>::nan()));
  for (std::int64_t item = items; item-- > 0;) execute(item, arena.data(), scratch.data());
  scratch.elements();
  return arena.elements();
}

// The same for what KernelOperation takes.
template <class Kernel, class = decltype(&Kernel::scratch_elements)>
std::vector<float> executed(const Kernel& kernel, const std::vector<float>& elements) {
  return executed(elements, kernel.items(), kernel.scratch_elements(),
                  [&](auto... arguments) { kernel.execute(arguments...); });
}

template <class T>
std::vector<T> executed(const Operation& operation, const std::vector<T>& elements) {
  const std::int64_t scratch = operation.scratch_bytes() / static_cast<std::int64_t>(sizeof(T));
  return executed(elements, operation.items(), scratch, [&](std::int64_t item, T* a, T* s) {
    operation.execute(item, {reinterpret_cast<std::byte*>(a), nullptr, nullptr},
                      reinterpret_cast<std::byte*>(s));
  });
}

// Numbers as they are stored, and back.
template <class T>
std::vector<T> stored(const std::vector<float>& numbers) {
  std::vector<T> made(numbers.size());
  std::transform(numbers.begin(), numbers.end(), made.begin(),
                 [](float number) { return static_cast<T>(number); });
  return made;
}

template <class T>
std::vector<float> widened(const std::vector<T>& elements) {
  return {elements.begin(), elements.end()};
}

// Whether both hold the same bits: NaNs are as good as numbers.
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), sizeof(T) * a.size()) == 0;
}

// What an arena should hold: numbers where a kernel writes, what was there elsewhere.
class Expected {
 public:
  explicit Expected(const std::vector<float>& before)
      : before_(before), values_(before.size()), written_(before.size(), false) {}

  void set(std::int64_t element, double value) {
    written_.at(element) = true;
    values_[element] = value;
  }

  void compare(const std::vector<float>& after, double tolerance) const {
    for (std::size_t i = 0; i < before_.size(); ++i) {
      const std::string where = "element " + std::to_string(i);
      if (written_[i]) {
        expect_near(after[i], values_[i], tolerance, where);
      } else {
        expect(std::memcmp(&after[i], &before_[i], sizeof(float)) == 0, where + " has changed");
      }
    }
  }

 private:
  std::vector<float> before_;
  std::vector<double> values_;
  std::vector<bool> written_;
};

}  // namespace masktools
