// A network's inputs and outputs: samples one after another, float32, on the outside; the batch
// innermost, in the type of the computation, within.
//
// Both directions go through a tile of shared memory, so that either side is read or written in
// runs. Launch: blocks of 256, one for each tile; grid (tiles of elements, tiles of lanes).
#include "device.cuh"
#include "geometry.cuh"

namespace masktools {

// By value. `elements` of a sample are channels x height x width, in C order.
struct Border {
  int samples, elements;
  int lanes;
  int height, width;
  int tile_elements, tile_lanes;  // (tile_elements + 1) * tile_lanes <= TILE
  Place inside;
};

constexpr int TILE = 2176;

__device__ __forceinline__ int inside_offset(const Border& border, int element) {
  const int row = element / border.width;
  const int channel = row / border.height;
  return channel * border.inside.plane + (row - channel * border.height) * border.inside.down +
         (element - row * border.width) * border.inside.across;
}

// x: (samples, elements). y: the first real pixel of a value; lanes beyond the samples get zeros.
template <class T>
__device__ __forceinline__ void enter(const float* x, T* y, const Border& border) {
  __shared__ float tile[TILE];
  const int first = blockIdx.x * border.tile_elements, lane = blockIdx.y * border.tile_lanes;
  const int pitch = border.tile_elements + 1;
  const int size = border.tile_elements * border.tile_lanes;
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    const int n = i / border.tile_elements, e = i - n * border.tile_elements;
    const bool real = lane + n < border.samples && first + e < border.elements;
    tile[n * pitch + e] =
        real ? x[static_cast<long long>(lane + n) * border.elements + first + e] : 0.0f;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    const int e = i / border.tile_lanes, n = i - e * border.tile_lanes;
    if (first + e < border.elements && lane + n < border.lanes) {
      y[inside_offset(border, first + e) + lane + n] = from_float<T>(tile[n * pitch + e]);
    }
  }
}

// x: the first real pixel of a value. y: (samples, elements).
template <class T>
__device__ __forceinline__ void leave(const T* x, float* y, const Border& border) {
  __shared__ float tile[TILE];
  const int first = blockIdx.x * border.tile_elements, lane = blockIdx.y * border.tile_lanes;
  const int pitch = border.tile_elements + 1;
  const int size = border.tile_elements * border.tile_lanes;
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    const int e = i / border.tile_lanes, n = i - e * border.tile_lanes;
    if (first + e < border.elements && lane + n < border.samples) {
      tile[n * pitch + e] = to_float(x[inside_offset(border, first + e) + lane + n]);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < size; i += blockDim.x) {
    const int n = i / border.tile_elements, e = i - n * border.tile_elements;
    if (first + e < border.elements && lane + n < border.samples) {
      y[static_cast<long long>(lane + n) * border.elements + first + e] = tile[n * pitch + e];
    }
  }
}

}  // namespace masktools

using namespace masktools;

extern "C" __global__ void __launch_bounds__(256)
    enter_float32(const float* x, float* y, Border border) {
  enter(x, y, border);
}

extern "C" __global__ void __launch_bounds__(256)
    enter_float16(const float* x, Half* y, Border border) {
  enter(x, y, border);
}

extern "C" __global__ void __launch_bounds__(256)
    leave_float32(const float* x, float* y, Border border) {
  leave(x, y, border);
}

extern "C" __global__ void __launch_bounds__(256)
    leave_float16(const Half* x, float* y, Border border) {
  leave(x, y, border);
}
