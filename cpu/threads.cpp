#include "threads.h"

#include <chrono>
#include <utility>

namespace masktools {
namespace {

using Clock = std::chrono::steady_clock;

// Longer than what lies between two steps of a network, shorter than anybody would notice as load.
constexpr std::chrono::microseconds kSpin{50};
constexpr int kPauses = 16;  // between two looks at the clock

constexpr int kItemBits = 32;
constexpr std::uint64_t kItemMask = (std::uint64_t{1} << kItemBits) - 1;

std::uint32_t generation_of(std::uint64_t ticket) {
  return static_cast<std::uint32_t>(ticket >> kItemBits);
}

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

Team::Team(int threads, std::vector<std::int64_t> items, Body body)
    : items_(std::move(items)), body_(std::move(body)), ticket_(kItemMask >> 1) {
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
  publish(generation_for(job));
  take_items(0);
  const auto done = [&] { return completed_.load(std::memory_order_acquire) == items; };
  while (!spin(done)) std::this_thread::yield();
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

// The next generation that stands for `job`.
std::uint32_t Team::generation_for(std::int64_t job) const {
  const auto jobs = static_cast<std::uint64_t>(items_.size());
  const std::uint64_t last = generation_of(ticket_.load(std::memory_order_relaxed));
  const std::uint64_t next = last - last % jobs + static_cast<std::uint64_t>(job);
  const std::uint64_t later = next > last ? next : next + jobs;
  return static_cast<std::uint32_t>(later <= kItemMask ? later : job);
}

// Sequentially consistent, as in sleep_until_changed: either a sleeper is seen here, or it sees the
// new ticket before it sleeps.
void Team::publish(std::uint32_t generation) {
  ticket_.store(std::uint64_t{generation} << kItemBits);
  if (sleepers_.load() == 0) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    sleepers_ = 0;  // one notification wakes all; further jobs need none
  }
  wake_.notify_all();
}

// Executes items of the current job until none is left; returns its generation.
std::uint32_t Team::take_items(int thread) {
  std::int64_t done = 0;
  for (;;) {
    const std::uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
    const std::uint32_t generation = generation_of(ticket);
    const auto item = static_cast<std::int64_t>(ticket & kItemMask);
    const auto job = static_cast<std::int64_t>(generation % items_.size());
    if (item >= items_[job]) {
      if (done != 0) completed_.fetch_add(done, std::memory_order_release);
      return generation;
    }
    try {
      body_(job, item, thread);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
    }
    ++done;
  }
}

void Team::work(int thread) {
  while (!stopping_) {
    const std::uint32_t generation = take_items(thread);
    if (!spin_until_changed(generation)) sleep_until_changed(generation);
  }
}

bool Team::spin_until_changed(std::uint32_t generation) const {
  return spin([&] { return stopping_ || generation_of(ticket_.load()) != generation; });
}

void Team::sleep_until_changed(std::uint32_t generation) {
  std::unique_lock<std::mutex> lock(mutex_);
  ++sleepers_;
  wake_.wait(lock, [&] { return stopping_ || generation_of(ticket_.load()) != generation; });
}

}  // namespace masktools
