#include "program/program.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <utility>

#include "program/context.h"

namespace masktools {
namespace {

constexpr std::int64_t kMostElements = std::int64_t{1} << 40;
constexpr std::size_t kMostOperations = std::size_t{1} << 20;
constexpr std::int64_t kMostSteps = std::int64_t{1} << 24;
constexpr std::chrono::milliseconds kBetween{50};

}  // namespace

Program::Program(std::int64_t arena_elements, std::int64_t element_bytes, int threads)
    : arena_elements_(arena_elements), element_bytes_(element_bytes), threads_(threads) {
  if (arena_elements < 0 || arena_elements > kMostElements) {
    throw std::invalid_argument("impossible size of an arena: " + std::to_string(arena_elements));
  }
  if (threads < 1 || threads > Team::kMaxThreads) {
    throw std::invalid_argument("expected 1 to " + std::to_string(Team::kMaxThreads) +
                                " threads, got " + std::to_string(threads));
  }
}

// A forked child leaves the parent's contexts to the end of the process.
Program::~Program() {
  for (std::unique_ptr<Context>& context : idle_) {
    if (context->foreign()) static_cast<void>(context.release());
  }
}

void Program::add(std::int64_t step, std::unique_ptr<const Operation> operation) {
  if (called_) throw std::logic_error("a program that has been called takes no more operations");
  if (step < -1 || step >= kMostSteps) {
    throw std::invalid_argument("no step has the index " + std::to_string(step));
  }
  if (entries_.size() >= kMostOperations) throw std::invalid_argument("too many operations");
  if (operation->items() >= Team::kMaxItems) throw std::invalid_argument("too many items of work");
  scratch_bytes_ = std::max(scratch_bytes_, operation->scratch_bytes());
  steps_ = std::max(steps_, step + 1);
  entries_.push_back({step, std::move(operation)});
}

void Program::poison() {
  if (called_) throw std::logic_error("a program that has been called cannot be poisoned");
  poison_ = true;
}

std::unique_ptr<Context> Program::acquire() {
  called_ = true;
  while (!idle_.empty()) {
    std::unique_ptr<Context> context = std::move(idle_.back());
    idle_.pop_back();
    if (!context->foreign()) return context;
    static_cast<void>(context.release());
  }
  std::vector<const Operation*> operations;
  for (const Entry& entry : entries_) operations.push_back(entry.operation.get());
  return std::make_unique<Context>(std::move(operations), arena_elements_ * element_bytes_,
                                   scratch_bytes_, threads_, poison_);
}

void Program::release(std::unique_ptr<Context> context) { idle_.push_back(std::move(context)); }

void Program::run(Context& context, const float* const* inputs, float* const* outputs,
                  double* seconds, const std::function<void()>& between) const {
  using Clock = std::chrono::steady_clock;
  context.set(inputs, outputs);
  Clock::time_point start = Clock::now(), looked = start;
  for (std::size_t job = 0; job < entries_.size(); ++job) {
    context.execute(static_cast<std::int64_t>(job));
    const Clock::time_point end = Clock::now();
    const std::int64_t step = entries_[job].step;
    if (seconds != nullptr && step >= 0) {
      seconds[step] += std::chrono::duration<double>(end - start).count();
    }
    start = end;
    if (end - looked < kBetween) continue;
    between();
    start = looked = Clock::now();
  }
}

}  // namespace masktools
