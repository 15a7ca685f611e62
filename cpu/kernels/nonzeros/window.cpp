#include "kernels/nonzeros/window.h"

#include <algorithm>

#include "simd/vector.h"
#include "simd/whole_numbers.h"

namespace masktools {
namespace {

std::int64_t whole_vectors(std::int64_t lanes) { return ceil_div(lanes, kLanes) * kLanes; }

// Channels that packing fetches ahead, and elements of a cache line.
constexpr std::int64_t kAhead = 2;
constexpr std::int64_t kLine = 16;

}  // namespace

InputWindow::InputWindow(const Taps& taps, const TileShape& tile, Copies copies)
    : taps_(taps), tile_(tile) {
  switch (copies) {
    case Copies::kNone:
      share();
      break;
    case Copies::kColumns:
      copy_columns();
      break;
    case Copies::kTaps:
      copy_taps();
      break;
  }
}

// A part for each phase of the pixels that a stride leaves.
void InputWindow::share() {
  const std::int64_t stride = taps_.stride_x, last = (taps_.kernel_x - 1) * taps_.dilation_x;
  const std::int64_t rows =
      (tile_.rows - 1) * taps_.stride_y + (taps_.kernel_y - 1) * taps_.dilation_y + 1;
  pitch_ = whole_vectors((tile_.pixels + last / stride) * tile_.samples);
  std::vector<std::int64_t> part_of(static_cast<std::size_t>(stride), -1);
  for (std::int64_t tap = 0; tap < taps_.count(); ++tap) {
    const std::int64_t shift = tap % taps_.kernel_x * taps_.dilation_x;
    std::int64_t& part = part_of[shift % stride];
    if (part < 0) {
      part = static_cast<std::int64_t>(parts_.size());
      add_part({0, shift % stride, rows, tile_.pixels + last / stride, 0});
    }
    tap_offsets_.push_back(parts_[part].to + tap / taps_.kernel_x * taps_.dilation_y * pitch_ +
                           shift / stride * tile_.samples);
  }
  kernel_rows_ = tile_.rows;
  kernel_vectors_ = ceil_div(tile_.pixels * tile_.samples, kLanes);
  kernel_pitch_ = taps_.stride_y * pitch_;
  sums_pitch_ = kernel_vectors_ * kLanes;
}

void InputWindow::copy_columns() {
  pitch_ = tile_.pixels * tile_.samples;
  const std::int64_t rows = tile_.rows + (taps_.kernel_y - 1) * taps_.dilation_y;
  for (std::int64_t x = 0; x < taps_.kernel_x; ++x) {
    add_part({0, x * taps_.dilation_x, rows, tile_.pixels, 0});
  }
  for (std::int64_t tap = 0; tap < taps_.count(); ++tap) {
    tap_offsets_.push_back(parts_[tap % taps_.kernel_x].to +
                           tap / taps_.kernel_x * taps_.dilation_y * pitch_);
  }
  kernel_vectors_ = ceil_div(tile_.rows * pitch_, kLanes);
  sums_pitch_ = pitch_;
}

void InputWindow::copy_taps() {
  pitch_ = tile_.pixels * tile_.samples;
  row_step_ = taps_.stride_y;
  for (std::int64_t tap = 0; tap < taps_.count(); ++tap) {
    add_part({tap / taps_.kernel_x * taps_.dilation_y, tap % taps_.kernel_x * taps_.dilation_x,
              tile_.rows, tile_.pixels, 0});
    tap_offsets_.push_back(parts_.back().to);
  }
  kernel_vectors_ = ceil_div(tile_.rows * pitch_, kLanes);
  sums_pitch_ = pitch_;
}

void InputWindow::add_part(const Part& part) {
  parts_.push_back(part);
  parts_.back().to = channel_elements_;
  channel_elements_ += whole_vectors(part.rows * pitch_);
}

// Whether pieces are pixels apart from each other, all samples of each.
bool InputWindow::at_stride(const ImageShape& image) const {
  return taps_.stride_x > 1 && tile_.samples == image.batch;
}

void InputWindow::pieces(const ImageShape& image, std::int64_t y, std::int64_t x,
                         std::int64_t sample, std::int64_t samples,
                         std::vector<Piece>* made) const {
  made->clear();
  for (const Part& part : parts_) {
    const std::int64_t x0 = x * taps_.stride_x - taps_.pad_left + part.x;
    const Span span = inside(x0, taps_.stride_x, image.width, part.pixels);
    if (span.first == span.last) continue;
    for (std::int64_t row = 0; row < part.rows; ++row) {
      const std::int64_t at = y * taps_.stride_y - taps_.pad_top + part.y + row * row_step_;
      if (at < 0 || at >= image.height) continue;
      const std::int64_t pixel = at * image.pitch + x0;
      const std::int64_t to = part.to + row * pitch_;
      if (tile_.samples == image.batch) {
        const std::int64_t pixels = span.last - span.first;
        made->push_back({(pixel + span.first * taps_.stride_x) * image.batch,
                         to + span.first * tile_.samples,
                         at_stride(image) ? pixels : pixels * image.batch});
        continue;
      }
      for (std::int64_t k = span.first; k < span.last; ++k) {
        made->push_back(
            {(pixel + k * taps_.stride_x) * image.batch + sample, to + k * tile_.samples, samples});
      }
    }
  }
}

void InputWindow::pack(const ImageShape& image, const std::vector<Piece>& pieces,
                       const float* planes, std::int64_t plane, std::int64_t channels,
                       float* window) const {
  const PixelCopy<float> copy = pixel_copy<float>(taps_.stride_x, image.batch);
  for (std::int64_t c = 0; c < channels; ++c, planes += plane, window += channel_elements_) {
    if (at_stride(image)) {
      for (const Piece& piece : pieces) {
        copy(planes + piece.from, window + piece.to, piece.lanes, taps_.stride_x, image.batch);
      }
      continue;
    }
    for (const Piece& piece : pieces) {
      const float* from = planes + piece.from;
      float* to = window + piece.to;
      std::int64_t lane = 0;
      for (; lane + kLanes <= piece.lanes; lane += kLanes) {
        __builtin_prefetch(from + kAhead * plane + lane);
        store(to + lane, load(from + lane));
      }
      if (lane < piece.lanes) store(to + lane, load(from + lane), piece.lanes - lane);
    }
  }
}

void InputWindow::fetch(const ImageShape& image, const std::vector<Piece>& pieces,
                        const float* planes, std::int64_t plane, std::int64_t channels) const {
  const std::int64_t step = at_stride(image) ? taps_.stride_x * image.batch : 1;
  for (std::int64_t c = 0; c < channels; ++c, planes += plane) {
    for (const Piece& piece : pieces) {
      const float* from = planes + piece.from;
      for (std::int64_t at = 0; at < piece.lanes * step; at += kLine) {
        __builtin_prefetch(from + at, 0, 2);
      }
    }
  }
}

}  // namespace masktools
