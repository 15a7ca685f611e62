#include "program/context.h"

#include <unistd.h>

#include <utility>

#include "program/arena.h"

namespace masktools {
namespace {

constexpr std::int64_t kLine = 64;                            // bytes
constexpr std::int64_t kSlackBytes = kSlack * sizeof(float);  // whole lines, for every element

std::int64_t lines(std::int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

std::vector<std::int64_t> items_of(const std::vector<const Operation*>& operations) {
  std::vector<std::int64_t> items;
  for (const Operation* operation : operations) items.push_back(operation->items());
  return items;
}

}  // namespace

Context::Context(std::vector<const Operation*> operations, std::int64_t arena_bytes,
                 std::int64_t scratch_bytes, int threads)
    : process_(getpid()),
      operations_(std::move(operations)),
      scratch_stride_(lines(scratch_bytes)),
      arena_(arena_bytes + 2 * kSlackBytes),
      scratch_(scratch_stride_ * threads),
      team_(threads, items_of(operations_),
            [this](std::int64_t operation, std::int64_t item, int thread) {
              operations_[operation]->execute(item, buffers_,
                                              scratch_.data() + thread * scratch_stride_);
            }) {
  buffers_.arena = arena_.data() + kSlackBytes;
}

bool Context::foreign() const { return process_ != getpid(); }

void Context::set(const float* const* inputs, float* const* outputs) {
  buffers_.inputs = inputs;
  buffers_.outputs = outputs;
}

}  // namespace masktools
