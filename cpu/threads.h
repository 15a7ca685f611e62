// Threads that share the items of one job after another.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace masktools {

// The caller's thread and `threads - 1` workers. Jobs are numbered; each has a fixed number of
// items, which the threads take from one counter, so that uneven items balance. A thread that
// comes late, or not at all, delays nobody but for the item that it holds.
class Team {
 public:
  // Executes one item of a job on the thread of that number; 0 is the caller's.
  using Body = std::function<void(std::int64_t job, std::int64_t item, int thread)>;

  static constexpr int kMaxThreads = 1024;
  static constexpr std::int64_t kMaxItems = std::int64_t{1} << 30;

  // `items`: of each job, at most kMaxItems. Starts the workers.
  Team(int threads, std::vector<std::int64_t> items, Body body);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Executes all items of a job; returns when they are done. Throws what the first item that
  // threw has thrown, after all others were executed. For one caller at a time.
  void run(std::int64_t job);

 private:
  void work(int thread);
  std::uint32_t take_items(int thread);
  std::uint32_t generation_for(std::int64_t job) const;
  void publish(std::uint32_t generation);
  bool spin_until_changed(std::uint32_t generation) const;
  void sleep_until_changed(std::uint32_t generation);
  void stop();

  const std::vector<std::int64_t> items_;
  const Body body_;
  std::vector<std::thread> workers_;

  // Upper half: the generation, which tells the job: job = generation % jobs. Lower half: the next
  // item. Whoever increments it learns both at once, so a thread that comes late finds the items
  // of an old job used up and never takes one of a job that it knows nothing of.
  alignas(64) std::atomic<std::uint64_t> ticket_;
  alignas(64) std::atomic<std::int64_t> completed_{0};  // items of the current job

  alignas(64) std::mutex mutex_;  // of all below
  std::condition_variable wake_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::exception_ptr error_;
};

}  // namespace masktools
