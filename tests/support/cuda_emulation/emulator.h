// Runs CUDA kernels on the processor, one block after another, its threads as fibers.
//
// What a device leaves open is made to hurt: shared memory starts as NaNs, threads run in the
// orders that a schedule asks for, and asynchronous copies land as early or as late as they may.
// A barrier that not all threads reach, or that they reach at different places, is a fault; so are
// copies and reads that are misaligned or outside of the memory that a launch was given.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define EMULATOR_FORGET(memory, bytes) ASAN_UNPOISON_MEMORY_REGION(memory, bytes)
#else
#define EMULATOR_FORGET(memory, bytes)
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __shared__ static
#define __align__(bytes) alignas(bytes)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

namespace emulator {

constexpr unsigned WARP = 32;
constexpr size_t STACK = 256 << 10;
constexpr size_t SHARED_ALIGNMENT = 128;

// How a launch orders what a device leaves open: bits of the schedule.
enum { LAST_WARP_FIRST = 1, LAST_LANE_FIRST = 2 };

enum class State { READY, AT_WARP_BARRIER, AT_BLOCK_BARRIER, DONE };

struct Copy {
  void* to;
  const void* from;
  int bytes;
};

// A stack that can be left and entered again.
struct Context {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
};

// A thread of the block.
struct Fiber {
  Context context;
  std::vector<char> stack = std::vector<char>(STACK);
  State state = State::DONE;
  int place = 0;  // what barrier it waits at
  uint3 index{};
  unsigned lane = 0, warp = 0;
  unsigned exchanges = 0;
  std::vector<std::vector<Copy>> groups;
  std::vector<Copy> open;
};

// Memory that a launch was given.
struct Range {
  const char* begin;
  size_t bytes;
};

// What lanes of a warp show each other; two of them, so that one may be filled while the other is
// still read.
struct Board {
  alignas(16) char posted[2][WARP][32];
};

struct Device {
  std::vector<Fiber> fibers;
  Fiber* current = nullptr;
  Context scheduler;
  std::vector<Board> boards;
  dim3 block, grid;
  uint3 block_index{};
  unsigned schedule = 0;
  bool copies_land_early = false;
  void (*kernel)(void*) = nullptr;
  void* arguments = nullptr;
  char* shared = nullptr;
  size_t shared_bytes = 0;
  std::vector<Range> memory;
  std::string fault;
};

inline Device& device() {
  static Device the_device;
  return the_device;
}

#if defined(__x86_64__)
// Saves the registers that a call must keep on the stack, changes stacks, and restores them.
extern "C" void emulator_switch(void** save, void* load);
__asm__(
    ".text\n.weak emulator_switch\nemulator_switch:\n"
    " push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    " mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
    " pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret\n");
inline void change(Context& from, Context& to) {
  emulator_switch(&from.stack_pointer, to.stack_pointer);
}
#else
inline void change(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
#endif

inline void leave() { change(device().current->context, device().scheduler); }

inline void thread_main() {
  device().kernel(device().arguments);
  device().current->state = State::DONE;
  for (;;) leave();
}

inline void prepare(Fiber& fiber) {
  EMULATOR_FORGET(fiber.stack.data(), fiber.stack.size());
#if defined(__x86_64__)
  auto top = (reinterpret_cast<uintptr_t>(fiber.stack.data()) + STACK) & ~uintptr_t{63};
  void** pointer = reinterpret_cast<void**>(top);
  *--pointer = nullptr;  // thread_main returns to nowhere
  *--pointer = reinterpret_cast<void*>(&thread_main);
  for (int saved = 0; saved < 6; saved++) *--pointer = nullptr;
  fiber.context.stack_pointer = pointer;
#else
  getcontext(&fiber.context.context);
  fiber.context.context.uc_stack.ss_sp = fiber.stack.data();
  fiber.context.context.uc_stack.ss_size = STACK;
  fiber.context.context.uc_link = nullptr;
  makecontext(&fiber.context.context, &thread_main, 0);
#endif
}

// Keeps the first fault of a launch.
inline void note(const std::string& what, const Fiber& fiber) {
  Device& d = device();
  if (!d.fault.empty()) return;
  auto of = [](const uint3& i) {
    return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) +
           ")";
  };
  d.fault = what + ", block " + of(d.block_index) + " thread " + of(fiber.index);
}

// Ends the launch from within a thread; its stack is given up.
[[noreturn]] inline void fail(const std::string& what) {
  note(what, *device().current);
  for (;;) leave();
}

inline void wait(State barrier, int place) {
  Fiber& me = *device().current;
  me.state = barrier;
  me.place = place;
  leave();
}

// Runs a warp until all its threads wait at the block's barrier or are done.
inline void run_warp(unsigned warp, unsigned threads) {
  Device& d = device();
  const unsigned first = warp * WARP, end = std::min(first + WARP, threads);
  for (;;) {
    for (unsigned i = first; i < end; i++) {
      Fiber& fiber = d.fibers[d.schedule & LAST_LANE_FIRST ? first + end - 1 - i : i];
      if (fiber.state != State::READY) continue;
      d.current = &fiber;
      change(d.scheduler, fiber.context);
      if (!d.fault.empty()) return;
    }
    unsigned waiting = 0, alive = 0;
    const Fiber* one = nullptr;
    for (unsigned i = first; i < end; i++) {
      const Fiber& fiber = d.fibers[i];
      alive += fiber.state != State::DONE;
      if (fiber.state != State::AT_WARP_BARRIER) continue;
      waiting++;
      if (one && one->place != fiber.place) return note("lanes of a warp diverge", fiber);
      one = &fiber;
    }
    if (!waiting) return;
    if (waiting != alive) return note("some lanes do not take part in their warp's step", *one);
    for (unsigned i = first; i < end; i++) {
      if (d.fibers[i].state == State::AT_WARP_BARRIER) d.fibers[i].state = State::READY;
    }
  }
}

inline void run_block() {
  Device& d = device();
  const unsigned threads = d.block.x * d.block.y * d.block.z, warps = (threads + WARP - 1) / WARP;
  for (size_t i = 0; i + 4 <= d.shared_bytes; i += 4) {
    const uint32_t nan = 0x7fffdead;  // both as a float and as two float16
    memcpy(d.shared + i, &nan, 4);
  }
  for (unsigned i = 0; i < threads; i++) {
    Fiber& fiber = d.fibers[i];
    fiber.state = State::READY;
    fiber.lane = i % WARP;
    fiber.warp = i / WARP;
    fiber.index = {i % d.block.x, i / d.block.x % d.block.y, i / (d.block.x * d.block.y)};
    fiber.exchanges = 0;
    fiber.groups.clear();
    fiber.open.clear();
    prepare(fiber);
  }
  for (;;) {
    for (unsigned i = 0; i < warps; i++) {
      run_warp(d.schedule & LAST_WARP_FIRST ? warps - 1 - i : i, threads);
      if (!d.fault.empty()) return;
    }
    unsigned done = 0;
    const Fiber* one = nullptr;
    for (unsigned i = 0; i < threads; i++) {
      const Fiber& fiber = d.fibers[i];
      done += fiber.state == State::DONE;
      if (fiber.state != State::AT_BLOCK_BARRIER) continue;
      if (one && one->place != fiber.place)
        return note("threads wait at different barriers", fiber);
      one = &fiber;
    }
    if (done == threads) return;
    if (done) return note("threads wait at a barrier that others have passed by", *one);
    for (unsigned i = 0; i < threads; i++) d.fibers[i].state = State::READY;
  }
}

// What the host hands over for a launch.
struct Launch {
  unsigned grid[3], block[3];
  unsigned schedule;  // 0..3: order of threads, and when copies land
  uint64_t shared_bytes;
  uint64_t ranges;
  const Range* memory;
  char* fault;  // 256 bytes: what went wrong, empty if nothing did
};

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<A*>(arguments[I])...);
}

template <class... A>
void run(void (*kernel)(A...), const Launch& launch, void** arguments) {
  Device& d = device();
  d.grid = {launch.grid[0], launch.grid[1], launch.grid[2]};
  d.block = {launch.block[0], launch.block[1], launch.block[2]};
  d.schedule = launch.schedule;
  d.copies_land_early = launch.schedule == 1 || launch.schedule == 2;
  const unsigned threads = d.block.x * d.block.y * d.block.z;
  if (d.fibers.size() < threads) d.fibers.resize(threads);
  d.boards.resize((threads + WARP - 1) / WARP);
  // Of exactly the size asked for, so that a sanitizer sees what lies beyond.
  d.shared_bytes = launch.shared_bytes;
  void* shared = nullptr;
  if (posix_memalign(&shared, SHARED_ALIGNMENT, d.shared_bytes)) abort();
  d.shared = static_cast<char*>(shared);
  d.memory.assign(launch.memory, launch.memory + launch.ranges);
  d.fault.clear();
  auto body = [&] { call(kernel, arguments, std::index_sequence_for<A...>{}); };
  using Body = decltype(body);
  d.kernel = [](void* given) { (*static_cast<Body*>(given))(); };
  d.arguments = &body;
  uint3& at = d.block_index;
  for (at.z = 0; at.z < d.grid.z; at.z++) {
    for (at.y = 0; at.y < d.grid.y; at.y++) {
      for (at.x = 0; at.x < d.grid.x && d.fault.empty(); at.x++) run_block();
    }
  }
  free(d.shared);
  snprintf(launch.fault, 256, "%s", d.fault.c_str());
}

inline bool in_shared(const void* memory, size_t bytes) {
  const char* at = static_cast<const char*>(memory);
  return at >= device().shared && at + bytes <= device().shared + device().shared_bytes;
}

inline void check(const void* memory, size_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(memory) % bytes) fail(what + std::string(" is misaligned"));
  const char* at = static_cast<const char*>(memory);
  for (const Range& range : device().memory) {
    if (at >= range.begin && at + bytes <= range.begin + range.bytes) return;
  }
  fail(what + std::string(" is outside of the memory given"));
}

// Shows `value` to the warp and waits until every lane has shown its own; `shown` then reads them.
template <class T>
void show(const T& value, int place) {
  static_assert(sizeof(T) <= 32, "a board has 32 bytes a lane");
  Fiber& me = *device().current;
  me.exchanges++;
  memcpy(device().boards[me.warp].posted[me.exchanges & 1][me.lane], &value, sizeof value);
  wait(State::AT_WARP_BARRIER, place);
}

template <class T>
T shown(unsigned lane) {
  const Fiber& me = *device().current;
  T value;
  memcpy(&value, device().boards[me.warp].posted[me.exchanges & 1][lane % WARP], sizeof value);
  return value;
}

template <class T>
T shuffle(T value, unsigned lane, int place) {
  show(value, place);
  return shown<T>(lane);
}

}  // namespace emulator

#define threadIdx (emulator::device().current->index)
#define blockIdx (emulator::device().block_index)
#define blockDim (emulator::device().block)
#define gridDim (emulator::device().grid)
#define __syncthreads() emulator::wait(emulator::State::AT_BLOCK_BARRIER, __LINE__)
#define __trap() emulator::fail("a trap")
#define __syncwarp(...) emulator::wait(emulator::State::AT_WARP_BARRIER, __LINE__)
#define __shfl_sync(mask, value, lane) emulator::shuffle(value, lane, __LINE__)
#define __shfl_xor_sync(mask, value, other) \
  emulator::shuffle(value, emulator::device().current->lane ^ (other), __LINE__)
#define __shfl_down_sync(mask, value, by)                                    \
  emulator::shuffle(value,                                                   \
                    emulator::device().current->lane + (by) < emulator::WARP \
                        ? emulator::device().current->lane + (by)            \
                        : emulator::device().current->lane,                  \
                    __LINE__)

inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

template <class T>
T __ldg(const T* memory) {
  emulator::check(memory, sizeof(T), "a read");
  return *memory;
}
