// Just enough of a test framework: tests register themselves, a check that fails throws.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace masktools {

using Test = void (*)();

struct NamedTest {
  const char* name;
  Test test;
};

inline std::vector<NamedTest>& all_tests() {
  static std::vector<NamedTest> tests;
  return tests;
}

struct Registration {
  Registration(const char* name, Test test) { all_tests().push_back({name, test}); }
};

// Defines a test and registers it.
#define TEST(name)                                            \
  static void name();                                         \
  static const Registration name##_registration(#name, name); \
  static void name()

inline void expect(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

// Whether two numbers are as near as `tolerance` allows, of the expected one or of 1.
inline void expect_near(float got, double expected, double tolerance, const std::string& where) {
  const bool same = std::isnan(expected) ? std::isnan(got)
                    : std::isinf(expected)
                        ? got == expected
                        : std::abs(got - expected) <= tolerance * std::max(1.0, std::abs(expected));
  expect(same, where + ": got " + std::to_string(got) + ", expected " + std::to_string(expected));
}

// Calls what must throw std::invalid_argument, whose message has `reason` in it.
template <class Make>
void expect_refused(const std::string& what, const Make& make, const std::string& reason = "") {
  try {
    make();
  } catch (const std::invalid_argument& error) {
    const std::string message = error.what();
    expect(message.find(reason) != std::string::npos, what + " is refused for: " + message);
    return;
  }
  throw std::runtime_error("not refused: " + what);
}

// Numbers and choices, the same on every machine.
class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed) {}
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(n));
  }
  float number() { return static_cast<float>(engine_()) / 2147483648.0f - 1.0f; }
  std::vector<float> numbers(std::int64_t count) {
    std::vector<float> made(count);
    for (float& x : made) x = number();
    return made;
  }

 private:
  std::mt19937 engine_;
};

}  // namespace masktools
