// Executes all tests, or those whose name contains the first argument; fails if any fails.
#include <cstdio>
#include <cstring>
#include <exception>

#include "check.h"
#include "simd/vector.h"

int main(int count, char** arguments) {
  using namespace masktools;
  const char* wanted = count > 1 ? arguments[1] : "";
  int executed = 0, failed = 0;
  for (const NamedTest& named : all_tests()) {
    if (std::strstr(named.name, wanted) == nullptr) continue;
    ++executed;
    try {
      named.test();
    } catch (const std::exception& error) {
      ++failed;
      std::printf("FAILED %s: %s\n", named.name, error.what());
    }
  }
  std::printf("%d tests with vectors of %d, %d failed\n", executed, kLanes, failed);
  return failed == 0 && executed > 0 ? 0 : 1;
}
