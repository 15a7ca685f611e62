#include "simd/machine.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "simd/vector.h"

namespace masktools {
namespace {

#if defined(__x86_64__)

struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);  // zeros where there is no such leaf
  return r;
}

bool bit(unsigned word, int n) { return (word >> n & 1) != 0; }

// Which registers the system saves when it switches threads.
std::uint64_t saved_state(const Registers& leaf1) {
  if (!bit(leaf1.c, 27)) return 0;  // OSXSAVE
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
}

bool saves(std::uint64_t state, std::uint64_t wanted) { return (state & wanted) == wanted; }

#endif

// Accumulators that hide the latency of a multiply-add (4 cycles, two a cycle) and leave registers
// for the operands.
constexpr int kAccumulators = kRegisters == 32 ? 24 : 12;
constexpr int kRepeats = 4096;

// Executes kAccumulators * kRepeats multiply-adds of vectors; x is small, so that nothing
// overflows. Loops over accumulators are unrolled whole: only so do they stay in registers.
Vector multiply_add(Vector x) {
  Vector sums[kAccumulators];
#pragma GCC unroll 32
  for (int i = 0; i < kAccumulators; ++i) sums[i] = x * static_cast<float>(i);
  for (int n = 0; n < kRepeats; ++n) {
#pragma GCC unroll 32
    for (int i = 0; i < kAccumulators; ++i) sums[i] = sums[i] * x + x;
  }
  Vector total{};
#pragma GCC unroll 32
  for (int i = 0; i < kAccumulators; ++i) total += sums[i];
  return total;
}

}  // namespace

Variant variant() { return {kIsa, kLanes}; }

std::map<std::string, bool> processor_features() {
  std::map<std::string, bool> has;
#if defined(__x86_64__)
  const Registers leaf1 = cpuid(1, 0), leaf7 = cpuid(7, 0), leaf71 = cpuid(7, 1);
  const std::uint64_t state = saved_state(leaf1);
  const bool avx = saves(state, 0x6) && bit(leaf1.c, 28);
  const bool avx512 = avx && saves(state, 0xe6);
  const bool amx = saves(state, 0x60000);
  has["avx2"] = avx && bit(leaf7.b, 5);
  has["fma"] = avx && bit(leaf1.c, 12);
  has["f16c"] = avx && bit(leaf1.c, 29);
  has["avx512f"] = avx512 && bit(leaf7.b, 16);
  has["avx512dq"] = avx512 && bit(leaf7.b, 17);
  has["avx512bw"] = avx512 && bit(leaf7.b, 30);
  has["avx512vl"] = avx512 && bit(leaf7.b, 31);
  has["avx512_bf16"] = avx512 && bit(leaf71.a, 5);
  has["amx_tile"] = amx && bit(leaf7.d, 24);
  has["amx_bf16"] = amx && bit(leaf7.d, 22);
#elif defined(__aarch64__)
  has["neon"] = true;  // part of every such processor
#endif
  return has;
}

double multiply_adds_per_second(double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto elapsed = [](Clock::time_point since) {
    return std::chrono::duration<double>(Clock::now() - since).count();
  };
  constexpr int kCalls = 16;  // about a millisecond between two looks at the clock
  volatile float seed = 0.25f;
  volatile float sink;
  std::vector<double> rates;
  const Clock::time_point begin = Clock::now();
  do {
    const Clock::time_point start = Clock::now();
    Vector total{};
    for (int n = 0; n < kCalls; ++n) total += multiply_add(broadcast(seed));
    const double work = double{kCalls} * kRepeats * kAccumulators * kLanes;
    rates.push_back(work / elapsed(start));
    sink = total[0];
  } while (elapsed(begin) < seconds);
  static_cast<void>(sink);
  std::nth_element(rates.begin(), rates.begin() + rates.size() / 2, rates.end());
  return rates[rates.size() / 2];
}

}  // namespace masktools
