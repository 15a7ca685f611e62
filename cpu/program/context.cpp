#include "program/context.h"

#include <pthread.h>

#include <atomic>
#include <cstring>
#include <system_error>
#include <utility>

#include "program/arena.h"

namespace masktools {
namespace {

constexpr std::int64_t kLine = 64;                            // bytes
constexpr std::int64_t kSlackBytes = kSlack * sizeof(float);  // whole lines, for every element

constexpr int kPoison = 0xFF;  // of all bytes: NaN in either type

std::int64_t lines(std::int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

std::vector<std::int64_t> items_of(const std::vector<const Operation*>& operations) {
  std::vector<std::int64_t> items;
  for (const Operation* operation : operations) items.push_back(operation->items());
  return items;
}

std::atomic<std::int64_t> forked{0};

// How many forks lie between this process and the first. Not the process's number: a later process,
// or one in a namespace of its own, may have the same.
std::int64_t forks() {
  static const int error = pthread_atfork(nullptr, nullptr, [] { ++forked; });
  if (error != 0) throw std::system_error(error, std::generic_category(), "pthread_atfork");
  return forked.load(std::memory_order_relaxed);
}

}  // namespace

Context::Context(std::vector<const Operation*> operations, std::int64_t arena_bytes,
                 std::int64_t scratch_bytes, int threads, bool poison)
    : forks_(forks()),
      operations_(std::move(operations)),
      arena_bytes_(arena_bytes + 2 * kSlackBytes),
      scratch_stride_(lines(scratch_bytes)),
      poison_(poison),
      arena_(arena_bytes_),
      scratch_(scratch_stride_ * threads),
      team_(threads, items_of(operations_),
            [this](std::int64_t operation, std::int64_t item, int thread) {
              std::byte* scratch = scratch_.data() + thread * scratch_stride_;
              if (poison_) std::memset(scratch, kPoison, scratch_stride_);
              operations_[operation]->execute(item, buffers_, scratch);
            }) {
  buffers_.arena = arena_.data() + kSlackBytes;
}

bool Context::foreign() const { return forks_ != forks(); }

void Context::set(const float* const* inputs, float* const* outputs) {
  buffers_.inputs = inputs;
  buffers_.outputs = outputs;
  if (poison_) std::memset(arena_.data(), kPoison, arena_bytes_);
}

}  // namespace masktools
