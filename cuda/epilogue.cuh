// How sums leave the registers: bias, skip add, activation, and the store.
#pragma once

#include "device.cuh"
#include "geometry.cuh"

namespace masktools {

// Where a layer's sums go.
template <class T>
struct Output {
  const float* bias;  // (rows of the layer), float32
  const T* skip;      // as y, at its own place; null where there is none
  T* y;               // no alias of skip
  float* partial;     // [slot][position], float32; null where no target names a slot
};

// COUNT neighbouring positions. ALIGNED: they are samples of one pixel, in aligned memory, all
// inside or all beyond the last position; otherwise each lies where it lies.
template <int COUNT, bool ALIGNED>
struct Span {
  int first;
  int valid;  // how many of them there are
  int y[ALIGNED ? 1 : COUNT], skip[ALIGNED ? 1 : COUNT];

  __device__ __forceinline__ Span(const Geometry& geometry, int position) : first(position) {
    const int left = geometry.positions - position;
    valid = left < 0 ? 0 : left < COUNT ? left : COUNT;
#pragma unroll
    for (int i = 0; i < (ALIGNED ? 1 : COUNT); i++) {
      y[i] = locate(geometry.y, geometry, position + i);
      skip[i] = locate(geometry.skip, geometry, position + i);
    }
  }
};

// Finishes one number: adds bias and skip, activates, rounds to the type of the output.
template <class T, int OP>
__device__ __forceinline__ T finish(const Activation& activation, float sum, float bias,
                                    float skip) {
  const float x = sum + bias + skip;
  if constexpr (OP == ANY) {
    return from_float<T>(activate(activation, x));
  } else {
    return from_float<T>(activate<OP>(activation, x));
  }
}

// Sends the sums of one row at a span of positions where its target says. OP: an ActivationOp, or
// ANY.
template <int OP, class T, int COUNT, bool ALIGNED>
__device__ __forceinline__ void send(const Output<T>& output, const Geometry& geometry, int target,
                                     const Span<COUNT, ALIGNED>& span,
                                     const Vector<float, COUNT>& sums) {
  if (target == NOWHERE || span.valid == 0) return;
  if (target < 0) {
    float* to = output.partial + partial_slot(target) * geometry.positions + span.first;
    if constexpr (ALIGNED) {
      write(to, sums);
    } else {
#pragma unroll
      for (int i = 0; i < COUNT; i++) {
        if (i < span.valid) write(to + i, Vector<float, 1>{sums.at[i]});
      }
    }
    return;
  }
  const float bias = output.bias[target];
  T* y = output.y + target * geometry.y.plane;
  const T* skip = output.skip ? output.skip + target * geometry.skip.plane : nullptr;
  if constexpr (ALIGNED) {
    Vector<T, COUNT> added{}, out;
    if (skip) added = read<T, COUNT>(skip + span.skip[0]);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const float more = skip ? to_float(added.at[i]) : 0.0f;
      out.at[i] = finish<T, OP>(geometry.activation, sums.at[i], bias, more);
    }
    write(y + span.y[0], out);
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      if (i < span.valid) {
        const float more = skip ? to_float(read<T, 1>(skip + span.skip[i]).at[0]) : 0.0f;
        const T out = finish<T, OP>(geometry.activation, sums.at[i], bias, more);
        write(y + span.y[i], Vector<T, 1>{out});
      }
    }
  }
}

}  // namespace masktools
