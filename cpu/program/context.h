// What one call of a program at a time works with.
#pragma once

#include <cstdint>
#include <vector>

#include "program/memory.h"
#include "program/operation.h"
#include "program/threads.h"

namespace masktools {

// An arena, the threads that run in it, and their scratch.
class Context {
 public:
  // `operations` outlive this. With `poison`, the arena is NaN whenever `set` has been called, and
  // scratch before each item: what is used before it was written shows. Throws std::bad_alloc, or
  // std::system_error where there are no more threads.
  Context(std::vector<const Operation*> operations, std::int64_t arena_bytes,
          std::int64_t scratch_bytes, int threads, bool poison = false);

  // Whether it was made by the process that this one was forked from. Threads do not survive a
  // fork: such a context must not be used, nor destroyed, for that would wait for them.
  bool foreign() const;

  // What the operations read from and write to next.
  void set(const float* const* inputs, float* const* outputs);

  // Executes one operation with all threads.
  void execute(std::int64_t operation) { team_.run(operation); }

 private:
  const std::int64_t forks_;  // before it was made
  const std::vector<const Operation*> operations_;
  const std::int64_t arena_bytes_;  // with the slack at both ends
  const std::int64_t scratch_stride_;
  const bool poison_;
  const Memory arena_;
  const Memory scratch_;
  Buffers buffers_{};
  Team team_;  // last: its threads use all of the above
};

}  // namespace masktools
