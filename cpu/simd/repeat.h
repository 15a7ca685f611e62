// Loops that are written out.
#pragma once

#include <utility>

// Under a sanitizer, which checks every access, kernels written out would take minutes to compile.
#if defined(__SANITIZE_ADDRESS__)
#define MASKTOOLS_INLINE
#else
#define MASKTOOLS_INLINE __attribute__((always_inline))
#endif

namespace masktools {

template <class F, int... kIndex>
MASKTOOLS_INLINE inline void repeat(std::integer_sequence<int, kIndex...>, const F& f) {
  (f(kIndex), ...);
}

// f(0), f(1) ... f(kCount - 1), written out: sums stay in registers where every index is a
// constant.
template <int kCount, class F>
MASKTOOLS_INLINE inline void repeat(const F& f) {
#if defined(__SANITIZE_ADDRESS__)
  for (int i = 0; i < kCount; ++i) f(i);
#else
  repeat(std::make_integer_sequence<int, kCount>(), f);
#endif
}

}  // namespace masktools
