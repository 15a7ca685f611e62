#include "kernels/depthwise_kernel.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "simd/bfloat16_vector.h"
#include "simd/repeat.h"
#include "simd/shuffle.h"
#include "simd/vector.h"

namespace masktools {
namespace {

// Where the lanes of a vector lie in x: side by side ...
struct Contiguous {
  static constexpr int kPixel = 0;
  static constexpr int kStep = 1;  // from one vector to the next, in vectors
  template <class T>
  static Vector at(const T* from) {
    return load(from);
  }
};

// ... or every second pixel of kPixel lanes.
template <int kLanesOfPixel>
struct EverySecond {
  static constexpr int kPixel = kLanesOfPixel;
  static constexpr int kStep = 2;
  static Vector at(const float* from) { return chosen<Vector>(from); }
  // Chosen first: half as much is widened.
  static Vector at(const Bfloat16* from) { return widened(chosen<HalfVector>(from)); }

 private:
  template <class V, class T>
  static V chosen(const T* from) {
    V a, b;
    std::memcpy(&a, from, sizeof a);
    std::memcpy(&b, from + kLanes, sizeof b);
    return chosen(a, b, std::make_integer_sequence<int, kLanes>());
  }

  template <class V, int... kIndex>
  static V chosen(V a, V b, std::integer_sequence<int, kIndex...>) {
    return pick(a, b,
                std::integer_sequence<int, (kIndex / kPixel * 2 * kPixel + kIndex % kPixel)...>());
  }
};

// What happens to the sums of kRows rows, vector after vector.
template <class T, int kRows>
class Epilogue {
 public:
  Epilogue(const DepthwiseCall& call, const DepthwiseTile<T>& tile)
      : call_(call),
        tile_(tile),
        low_(broadcast(call.bounds.low)),
        high_(broadcast(call.bounds.high)),
        plain_(call.bounded && !tile.skip) {}

  // Writes the vectors at lane `lane` of each row.
  MASKTOOLS_INLINE void write(std::int64_t lane, const Vector (&sums)[kRows]) const {
    const std::int64_t left = tile_.lanes - lane, row = call_.y_row;
    T* to = tile_.y + lane;
    if (plain_ && left >= kLanes) {
      repeat<kRows>([&](int r)
                        MASKTOOLS_INLINE { store(to + r * row, clamp(sums[r], low_, high_)); });
      return;
    }
    const std::int64_t lanes = std::min<std::int64_t>(left, kLanes);
    const std::int64_t written = std::min<std::int64_t>(tile_.written - lane, kLanes);
    repeat<kRows>([&](int r) MASKTOOLS_INLINE {
      const Vector v = plain_ ? clamp(sums[r], low_, high_) : finished(sums[r], r, lane);
      store(to + r * row, first(v, lanes), written);
    });
  }

  // Writes what is left of the zeros behind the lanes, from lane `lane` on.
  void write_zeros(std::int64_t lane) const {
    for (; lane < tile_.written; lane += kLanes) {
      const std::int64_t written = std::min<std::int64_t>(tile_.written - lane, kLanes);
      for (int r = 0; r < kRows; ++r) store(tile_.y + r * call_.y_row + lane, Vector{}, written);
    }
  }

 private:
  Vector finished(Vector v, int row, std::int64_t lane) const {
    if (tile_.skip) v += load(tile_.skip + row * call_.skip_row + lane);
    return call_.bounded ? clamp(v, low_, high_) : activated(call_.activation, v);
  }

  const DepthwiseCall& call_;
  const DepthwiseTile<T>& tile_;
  const Vector low_, high_;
  const bool plain_;  // bounds alone
};

// The same pointer, but compilers do not see that: else they keep one for each row and tap that is
// read, far more than there are registers.
template <class T>
inline const T* forgotten(const T* pointer) {
  asm("" : "+r"(pointer));
  return pointer;
}

// The same vector, in a register: else compilers may load it again for each use.
inline Vector held(Vector v) {
#if defined(__x86_64__)
  asm("" : "+x"(v));
#endif
  return v;
}

// A square kernel over kRows rows: what is read is read once for all of them. Of the rows that are
// read, kKernel / 2 at either end may lie in the padding.
template <class T, class Lanes, int kKernel, int kStride, int kRows>
void tile_square(const DepthwiseCall& call, const DepthwiseTile<T>& tile) {
  constexpr int kRead = (kRows - 1) * kStride + kKernel, kEnd = kKernel / 2;
  const std::int64_t first = tile.rows.first, last = tile.rows.last;
  const std::int64_t x_row = call.x_row, tap_x = call.tap_x, lanes = tile.lanes;
  const T* const begin = tile.x;
  const Epilogue<T, kRows> epilogue(call, tile);
  Vector weights[kKernel * kKernel];
  repeat<kKernel * kKernel>([&](int tap)
                                MASKTOOLS_INLINE { weights[tap] = broadcast(tile.weights[tap]); });
  const Vector bias = broadcast(tile.bias);
  std::int64_t lane = 0;
  for (; lane < lanes; lane += kLanes) {
    const T* x = begin + lane * Lanes::kStep;
    Vector sums[kRows];
    repeat<kRows>([&](int r) MASKTOOLS_INLINE { sums[r] = bias; });
    repeat<kRead>([&](int row) MASKTOOLS_INLINE {
      const bool middle = row >= kEnd && row < kRead - kEnd;
      if (middle || (row >= first && row < last)) {
        Vector read[kKernel];
        repeat<kKernel>([&](int tap)
                            MASKTOOLS_INLINE { read[tap] = held(Lanes::at(x + tap * tap_x)); });
        repeat<kKernel>([&](int tap) MASKTOOLS_INLINE {
          repeat<kRows>([&](int r) MASKTOOLS_INLINE {
            const int tap_y = row - r * kStride;
            if (tap_y >= 0 && tap_y < kKernel) {
              sums[r] += weights[tap_y * kKernel + tap] * read[tap];
            }
          });
        });
      }
      x = forgotten(x + x_row);
    });
    epilogue.write(lane, sums);
  }
  epilogue.write_zeros(lane);
}

// Any taps of any kernel over kRows rows.
template <class T, class Lanes, int kRows>
void tile_of(const DepthwiseCall& call, const DepthwiseTile<T>& tile) {
  const Epilogue<T, kRows> epilogue(call, tile);
  std::int64_t lane = 0;
  for (; lane < tile.lanes; lane += kLanes) {
    const T* x = tile.x + lane * Lanes::kStep;
    Vector sums[kRows];
    repeat<kRows>([&](int r) MASKTOOLS_INLINE { sums[r] = broadcast(tile.bias); });
    for (std::int64_t i = tile.taps_y.first; i < tile.taps_y.last; ++i) {
      for (std::int64_t j = tile.taps_x.first; j < tile.taps_x.last; ++j) {
        const Vector weight = broadcast(tile.weights[i * call.kernel_width + j]);
        const T* from = x + i * call.tap_y + j * call.tap_x;
        repeat<kRows>([&](int r) MASKTOOLS_INLINE {
          sums[r] += weight * Lanes::at(from + r * call.next_row);
        });
      }
    }
    epilogue.write(lane, sums);
  }
  epilogue.write_zeros(lane);
}

template <class T, class Lanes, int kKernel, int kStride, int... kIndex>
void take_square(DepthwiseKernels<T>& kernels, std::integer_sequence<int, kIndex...>) {
  kernels.whole = {tile_square<T, Lanes, kKernel, kStride, kIndex + 1>...};
  kernels.end = kKernel / 2;
}

// Takes the kernels of all taps of a square kernel, if it is one of kKernel.
template <class T, class Lanes, int kKernel>
void take_square(const DepthwiseShape& shape, DepthwiseKernels<T>& kernels) {
  if (shape.kernel_height != kKernel || shape.kernel_width != kKernel || shape.dilation_y != 1) {
    return;
  }
  constexpr auto kRows = std::make_integer_sequence<int, kDepthwiseRows>();
  if (shape.stride_y == 1) take_square<T, Lanes, kKernel, 1>(kernels, kRows);
  if (shape.stride_y == 2) take_square<T, Lanes, kKernel, 2>(kernels, kRows);
}

template <class T, class Lanes>
DepthwiseKernels<T> kernels_of(const DepthwiseShape& shape) {
  DepthwiseKernels<T> kernels = {{}, 0, tile_of<T, Lanes, kDepthwiseRows>, tile_of<T, Lanes, 1>};
  take_square<T, Lanes, 3>(shape, kernels);
  // Larger ones where vectors lie side by side, or at batch 1.
  if constexpr (Lanes::kPixel <= 1) take_square<T, Lanes, 5>(shape, kernels);
  if constexpr (Lanes::kPixel == 0) take_square<T, Lanes, 7>(shape, kernels);
  return kernels;
}

// Tries pixels of kPixel lanes and more.
template <class T, int kPixel>
DepthwiseKernels<T> strided_kernels_of(const DepthwiseShape& shape) {
  if constexpr (kPixel < kLanes) {
    if (shape.every_second == kPixel) return kernels_of<T, EverySecond<kPixel>>(shape);
    return strided_kernels_of<T, 2 * kPixel>(shape);
  } else {
    throw std::invalid_argument("depthwise: every second pixel makes no whole vectors");
  }
}

}  // namespace

template <class T>
DepthwiseKernels<T> depthwise_kernels(const DepthwiseShape& shape) {
  return shape.every_second == 0 ? kernels_of<T, Contiguous>(shape)
                                 : strided_kernels_of<T, 1>(shape);
}

template DepthwiseKernels<float> depthwise_kernels(const DepthwiseShape&);
template DepthwiseKernels<Bfloat16> depthwise_kernels(const DepthwiseShape&);

}  // namespace masktools
