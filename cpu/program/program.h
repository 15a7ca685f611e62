// A network as a list of operations on one arena, run by any number of callers at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "program/context.h"
#include "program/operation.h"

namespace masktools {

// Operations, executed one after another, each by all threads. Add them first; from the first call
// on there are no more.
class Program {
 public:
  // `arena_elements` of `element_bytes` each: zeros at the beginning of the first call, and what
  // calls before have left there in later ones. Throws std::invalid_argument.
  Program(std::int64_t arena_elements, std::int64_t element_bytes, int threads);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  std::int64_t arena_elements() const { return arena_elements_; }
  std::int64_t element_bytes() const { return element_bytes_; }
  int threads() const { return threads_; }
  std::int64_t steps() const { return steps_; }  // one more than the largest index of a step

  // Adds what executes, or a part of what executes, the step of that index of a plan; -1: none.
  // Throws std::invalid_argument, or std::logic_error once the program has been called.
  void add(std::int64_t step, std::unique_ptr<const Operation> operation);

  // From now on, for debugging: the arena is NaN at the beginning of each call, and scratch before
  // each item of work. Throws std::logic_error once the program has been called.
  void poison();

  // What one call at a time works with. Taken from and given back to a list, so that the threads
  // and the memory of calls that follow each other are made once. Not for several threads at once;
  // Python's lock sees to that, and so to that no other thread holds the list when a process forks.
  std::unique_ptr<Context> acquire();
  void release(std::unique_ptr<Context> context);

  // Executes all operations. Adds the seconds of each to seconds[step] unless it is null or the
  // step is -1. Calls `between` after operations, at most twenty times a second: what it throws
  // ends the run. May be called in several threads at once, with a context each.
  void run(Context& context, const float* const* inputs, float* const* outputs, double* seconds,
           const std::function<void()>& between) const;

 private:
  struct Entry {
    std::int64_t step;
    std::unique_ptr<const Operation> operation;
  };

  const std::int64_t arena_elements_;
  const std::int64_t element_bytes_;
  const int threads_;
  std::int64_t steps_ = 0;
  std::int64_t scratch_bytes_ = 0;  // of one thread
  bool called_ = false;
  bool poison_ = false;
  std::vector<Entry> entries_;
  std::vector<std::unique_ptr<Context>> idle_;
};

}  // namespace masktools
