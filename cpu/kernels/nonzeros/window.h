// Windows: what a tile of outputs of a convolution reads of its input, packed channel by channel so
// that it lies in the first level of the cache, zeros for the padding included.
#pragma once

#include <cstdint>
#include <vector>

#include "simd/pixels.h"

namespace masktools {

// A convolution's taps, along y and x.
struct Taps {
  std::int64_t kernel_y = 1, kernel_x = 1;
  std::int64_t stride_y = 1, stride_x = 1;
  std::int64_t dilation_y = 1, dilation_x = 1;
  std::int64_t pad_top = 0, pad_left = 0;

  std::int64_t count() const { return kernel_y * kernel_x; }
};

// What of a window is packed more than once. Sharing keeps it smallest; copies keep the vectors of
// small maps full, as rows follow each other without a gap.
enum class Copies : std::int64_t {
  kNone,     // all taps share it: each reads it shifted along y and x
  kColumns,  // a copy for each column of taps: they read it shifted along y. Strides along y: 1
  kTaps,     // a copy for each tap
};

// A tile: outputs [y, y + rows) x [x, x + pixels), of samples [first, first + samples).
struct TileShape {
  std::int64_t rows = 1, pixels = 1, samples = 1;
};

// An image as its planes lie in the arena: pixel (y, x) of sample n at (y * pitch + x) * batch + n.
struct ImageShape {
  std::int64_t height = 0, width = 0, pitch = 0, batch = 0;
};

// How the window of a tile is laid out, and how it is packed.
class InputWindow {
 public:
  // Sizes must be such that no product of a few of them overflows.
  InputWindow(const Taps& taps, const TileShape& tile, Copies copies);

  // A tile's sums: `kernel_rows` rows of `kernel_vectors` vectors; from the inputs of one such row
  // to those of the next are kernel_pitch() elements.
  std::int64_t kernel_rows() const { return kernel_rows_; }
  std::int64_t kernel_vectors() const { return kernel_vectors_; }
  std::int64_t kernel_pitch() const { return kernel_pitch_; }

  // From one row of a tile's outputs to the next, among its sums.
  std::int64_t sums_pitch() const { return sums_pitch_; }

  // From one channel to the next, a multiple of the vector; kernels read a tile's vectors beyond.
  std::int64_t channel_elements() const { return channel_elements_; }

  // Where a tap finds the first output's input, from the beginning of its channel.
  std::int64_t tap_offset(std::int64_t tap) const { return tap_offsets_[tap]; }

  // Lanes that lie side by side in an image and in the window; where pixels are taken at a stride,
  // `lanes` are pixels.
  struct Piece {
    std::int64_t from, to, lanes;
  };

  // The pieces of the tile whose first output is (y, x, sample), which has so many samples.
  void pieces(const ImageShape& image, std::int64_t y, std::int64_t x, std::int64_t sample,
              std::int64_t samples, std::vector<Piece>* made) const;

  // Packs channels: planes of an image, from its first. What no piece covers is left as it is.
  void pack(const ImageShape& image, const std::vector<Piece>& pieces, const float* planes,
            std::int64_t plane, std::int64_t channels, float* window) const;

  // Fetches what packing will read, into the second level of the cache.
  void fetch(const ImageShape& image, const std::vector<Piece>& pieces, const float* planes,
             std::int64_t plane, std::int64_t channels) const;

 private:
  // A copy of some rows and pixels of the input, from (y, x) of the tile's first tap on.
  struct Part {
    std::int64_t y, x, rows, pixels, to;
  };

  void share();
  void copy_columns();
  void copy_taps();
  void add_part(const Part& part);
  bool at_stride(const ImageShape& image) const;

  Taps taps_;
  TileShape tile_;
  std::int64_t kernel_rows_ = 1, kernel_vectors_ = 1, kernel_pitch_ = 0, sums_pitch_ = 0;
  std::int64_t row_step_ = 1;  // rows of the input from one packed row to the next
  std::int64_t pitch_ = 0;     // elements of a packed row
  std::int64_t channel_elements_ = 0;
  std::vector<Part> parts_;
  std::vector<std::int64_t> tap_offsets_;
};

}  // namespace masktools
