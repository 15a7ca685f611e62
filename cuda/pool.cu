// The largest or the mean of each window of an image.
//
// Launch: blocks of 256, a thread for each output number, lanes fastest. Taps outside the image are
// passed over, so an input needs no halo, and one that is there is not read.
#include "device.cuh"
#include "geometry.cuh"

namespace masktools {

// By value; pairs are (along y, along x).
struct Window {
  int count;  // channels * height * width * lanes of the output
  int lanes;
  int height, width;  // of the output
  int rows, columns;  // of the input
  int kernel[2], strides[2], dilations[2], pads[2];
  int counted[4];  // a mean counts taps so far above, left of, below, right of the image too
  Place x, y;
  float none;  // the largest of no taps: minus infinity
};

struct Taps {
  float largest, sum;
  int counted;
};

template <class T>
__device__ __forceinline__ Taps look(const T* x, const Window& window, int top, int left) {
  Taps taps = {window.none, 0.0f, 0};
  for (int i = 0; i < window.kernel[0]; i++) {
    const int row = top + i * window.dilations[0];
    for (int j = 0; j < window.kernel[1]; j++) {
      const int column = left + j * window.dilations[1];
      taps.counted += row >= -window.counted[0] && row < window.rows + window.counted[2] &&
                      column >= -window.counted[1] && column < window.columns + window.counted[3];
      if (row < 0 || row >= window.rows || column < 0 || column >= window.columns) continue;
      const float value = to_float(x[row * window.x.down + column * window.x.across]);
      taps.sum += value;
      // A NaN is kept: it compares as neither smaller nor larger.
      if (value > taps.largest || value != value) taps.largest = value;
    }
  }
  return taps;
}

template <class T, bool LARGEST>
__device__ __forceinline__ void pool(const T* x, T* y, const Window& window) {
  int index = blockIdx.x * blockDim.x + threadIdx.x;
  if (index >= window.count) return;
  const int lane = index % window.lanes;
  index /= window.lanes;
  const int column = index % window.width;
  index /= window.width;
  const int row = index % window.height;
  const int channel = index / window.height;
  const Taps taps =
      look(x + channel * window.x.plane + lane, window, row * window.strides[0] - window.pads[0],
           column * window.strides[1] - window.pads[1]);
  y[channel * window.y.plane + row * window.y.down + column * window.y.across + lane] =
      from_float<T>(LARGEST ? taps.largest : taps.sum / static_cast<float>(taps.counted));
}

}  // namespace masktools

using namespace masktools;

extern "C" __global__ void __launch_bounds__(256)
    max_pool_float32(const float* x, float* y, Window window) {
  pool<float, true>(x, y, window);
}

extern "C" __global__ void __launch_bounds__(256)
    max_pool_float16(const Half* x, Half* y, Window window) {
  pool<Half, true>(x, y, window);
}

extern "C" __global__ void __launch_bounds__(256)
    average_pool_float32(const float* x, float* y, Window window) {
  pool<float, false>(x, y, window);
}

extern "C" __global__ void __launch_bounds__(256)
    average_pool_float16(const Half* x, Half* y, Window window) {
  pool<Half, false>(x, y, window);
}
