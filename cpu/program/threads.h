// Threads that share the items of one job after another.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace masktools {

// The caller's thread and `threads - 1` workers. Jobs are numbered; each has a fixed number of
// items. Every thread begins with a range of its own, the same part of every job: neighbouring
// items read the same lines, and what one job writes the next one reads. Whoever is done takes
// from the end of the longest range, so that uneven items balance. A thread that comes late, or not
// at all, delays nobody but for the item that it holds.
class Team {
 public:
  // Executes one item of a job on the thread of that number; 0 is the caller's.
  using Body = std::function<void(std::int64_t job, std::int64_t item, int thread)>;

  static constexpr int kMaxThreads = 1024;
  static constexpr std::int64_t kMaxItems = std::int64_t{1} << 20;

  // `items`: of each job, fewer than kMaxItems. Starts the workers.
  Team(int threads, std::vector<std::int64_t> items, Body body);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Executes all items of a job; returns when they are done. Throws what the first item that
  // threw has thrown, after all others were executed. For one caller at a time.
  void run(std::int64_t job);

 private:
  // Items [begin, end) that are left of a thread's range, in one word, so that whoever takes one
  // knows what it is an item of: a thread that comes late finds ranges empty or takes from a newer
  // job, and never executes anything twice. job = generation % jobs.
  struct Range {
    std::uint64_t generation, begin, end;

    static Range of(std::uint64_t word);
    std::uint64_t word() const;
    std::uint64_t size() const { return end - begin; }
  };
  struct alignas(64) Slot {
    std::atomic<std::uint64_t> range;
  };

  void work(int thread);
  std::uint64_t take_items(int thread);
  bool take(int thread, Range* taken, std::int64_t* item);
  int longest(int thread) const;
  void execute(const Range& taken, std::int64_t item, int thread);
  std::uint64_t generation_for(std::int64_t job) const;
  void publish(std::int64_t job);
  bool changed(std::uint64_t generation) const;
  void sleep_until_changed(std::uint64_t generation);
  void stop();

  const std::vector<std::int64_t> items_;
  const Body body_;
  const int threads_;
  std::vector<std::thread> workers_;
  std::unique_ptr<Slot[]> slots_;                         // of each thread
  alignas(64) std::atomic<std::uint64_t> generation_{0};  // of the job whose ranges are all set
  alignas(64) std::atomic<std::int64_t> completed_{0};    // items of the current job

  alignas(64) std::mutex mutex_;  // of all below
  std::condition_variable wake_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::exception_ptr error_;
};

}  // namespace masktools
