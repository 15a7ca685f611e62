#include "program/threads.h"

#include <chrono>
#include <utility>

#include "program/operation.h"

namespace masktools {
namespace {

using Clock = std::chrono::steady_clock;

// Longer than what lies between two steps of a network, shorter than anybody would notice as load.
constexpr std::chrono::microseconds kSpin{50};
constexpr int kPauses = 16;  // between two looks at the clock

// Of a word: begin and end, 21 bits each, then the generation.
constexpr int kItemBits = 21;
constexpr std::uint64_t kItemMask = (std::uint64_t{1} << kItemBits) - 1;
constexpr std::uint64_t kGenerations = std::uint64_t{1} << (64 - 2 * kItemBits);
static_assert(Team::kMaxItems <= static_cast<std::int64_t>(kItemMask), "ends must fit");

void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits, for kSpin at most, until `done` returns true; returns whether it did.
template <class Done>
bool spin(const Done& done) {
  if (done()) return true;
  const Clock::time_point end = Clock::now() + kSpin;
  do {
    for (int n = 0; n < kPauses; ++n) {
      pause();
      if (done()) return true;
    }
  } while (Clock::now() < end);
  return false;
}

}  // namespace

Team::Range Team::Range::of(std::uint64_t word) {
  return {word >> (2 * kItemBits), word & kItemMask, word >> kItemBits & kItemMask};
}

std::uint64_t Team::Range::word() const {
  return generation << (2 * kItemBits) | end << kItemBits | begin;
}

Team::Team(int threads, std::vector<std::int64_t> items, Body body)
    : items_(std::move(items)),
      body_(std::move(body)),
      threads_(threads),
      slots_(new Slot[static_cast<std::size_t>(threads)]) {
  for (int thread = 0; thread < threads; ++thread) slots_[thread].range = Range{0, 0, 0}.word();
  if (items_.empty()) return;
  try {
    workers_.reserve(threads - 1);
    for (int thread = 1; thread < threads; ++thread) {
      workers_.emplace_back([this, thread] { work(thread); });
    }
  } catch (...) {  // no more threads to be had: those that run must not outlive this
    stop();
    throw;
  }
}

Team::~Team() { stop(); }

void Team::stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void Team::run(std::int64_t job) {
  const std::int64_t items = items_[job];
  if (workers_.empty() || items <= 1) {
    for (std::int64_t item = 0; item < items; ++item) body_(job, item, 0);
    return;
  }
  completed_.store(0, std::memory_order_relaxed);
  publish(job);
  take_items(0);
  const auto done = [&] { return completed_.load(std::memory_order_acquire) == items; };
  while (!spin(done)) std::this_thread::yield();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

// The next generation that stands for `job`.
std::uint64_t Team::generation_for(std::int64_t job) const {
  const auto jobs = static_cast<std::uint64_t>(items_.size());
  const auto number = static_cast<std::uint64_t>(job);
  const std::uint64_t last = generation_.load(std::memory_order_relaxed);
  const std::uint64_t next = last - last % jobs + number;
  const std::uint64_t later = next > last ? next : next + jobs;
  return later < kGenerations ? later : number;
}

// Sequentially consistent, as in sleep_until_changed: either a sleeper is seen here, or it sees the
// new generation before it sleeps.
void Team::publish(std::int64_t job) {
  const std::uint64_t generation = generation_for(job);
  for (int thread = 0; thread < threads_; ++thread) {
    const std::int64_t begin = part_start(thread, threads_, items_[job]);
    const std::int64_t end = part_start(thread + 1, threads_, items_[job]);
    slots_[thread].range.store(
        Range{generation, static_cast<std::uint64_t>(begin), static_cast<std::uint64_t>(end)}
            .word());
  }
  generation_.store(generation);
  if (sleepers_.load() == 0) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    sleepers_ = 0;  // one notification wakes all; further jobs need none
  }
  wake_.notify_all();
}

// The other thread that has most items left; -1 if none has any.
int Team::longest(int thread) const {
  int found = -1;
  std::uint64_t most = 0;
  for (int other = 0; other < threads_; ++other) {
    const std::uint64_t size = Range::of(slots_[other].range.load()).size();
    if (other == thread || size <= most) continue;
    most = size;
    found = other;
  }
  return found;
}

// Takes an item, from the front of the thread's own range or the end of another's. Returns whether
// there was one; `taken` is then the range it was taken from.
bool Team::take(int thread, Range* taken, std::int64_t* item) {
  for (int from = thread; from >= 0; from = longest(thread)) {
    std::uint64_t word = slots_[from].range.load();
    for (Range range = Range::of(word); range.size() != 0; range = Range::of(word)) {
      *taken = range;
      *item = static_cast<std::int64_t>(from == thread ? range.begin++ : --range.end);
      if (slots_[from].range.compare_exchange_weak(word, range.word())) return true;
    }
  }
  return false;
}

// Executes items until none is left; returns the generation that was current then.
std::uint64_t Team::take_items(int thread) {
  std::int64_t done = 0;
  for (;;) {
    const std::uint64_t generation = generation_.load();
    Range taken;
    std::int64_t item;
    if (!take(thread, &taken, &item)) {
      // While these are not counted, the job is not done and no range can change.
      if (done != 0) completed_.fetch_add(done, std::memory_order_release);
      return generation;
    }
    execute(taken, item, thread);
    ++done;
  }
}

void Team::execute(const Range& taken, std::int64_t item, int thread) {
  try {
    body_(static_cast<std::int64_t>(taken.generation % items_.size()), item, thread);
  } catch (...) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void Team::work(int thread) {
  while (!stopping_) {
    const std::uint64_t generation = take_items(thread);
    if (!spin([&] { return changed(generation); })) sleep_until_changed(generation);
  }
}

bool Team::changed(std::uint64_t generation) const {
  return stopping_ || generation_.load() != generation;
}

void Team::sleep_until_changed(std::uint64_t generation) {
  std::unique_lock<std::mutex> lock(mutex_);
  ++sleepers_;
  wake_.wait(lock, [&] { return changed(generation); });
}

}  // namespace masktools
