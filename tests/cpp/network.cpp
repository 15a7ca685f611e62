#include "network.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "arena.h"
#include "check.h"
#include "definitions.h"
#include "simd/bfloat16.h"
#include "simd/vector.h"

namespace masktools {
namespace {

constexpr std::int64_t kTaps = 9;
constexpr std::int64_t kWeightPadding = 16;  // narrow kernels load whole vectors

template <class T>
Array<T> array(const std::vector<T>& v) {
  return {v.data(), static_cast<std::int64_t>(v.size())};
}

float rounded(float x) { return static_cast<float>(Bfloat16(x)); }

}  // namespace

PackedCase::PackedCase(const Case& c) : c_(c) {
  lay_out();
  choose_weights();
  make_runs();
  make_groups();
  point_layer();
}

// Values side by side, with zeros between them where rows have halos.
void PackedCase::lay_out() {
  out_height_ = ((c_.height - 1) / c_.stride + 1) / window();
  out_width_ = ((c_.width - 1) / c_.stride + 1) / window();
  lanes_ = c_.pixel_mode ? (c_.batch + kLanes - 1) / kLanes * kLanes : c_.batch;
  pitch_ = c_.pixel_mode ? c_.width : c_.width + 1;
  out_pitch_ = c_.pixel_mode ? out_width_ : out_width_ + 1;
  std::int64_t end = (lanes_ + 63) / 64 * 64;  // zeros, which the halo of the first row are
  const auto add = [&](std::int64_t planes, std::int64_t height, std::int64_t pitch) {
    const Planes made{end, planes, (height * pitch * lanes_ + lanes_ + 15) / 16 * 16};
    end += planes * made.plane + 64;
    return made;
  };
  x_ = add(c_.channels, c_.height, pitch_);
  y_ = add(c_.rows, out_height_, out_pitch_);
  skip_ = add(c_.skip ? c_.rows : 0, out_height_, out_pitch_);
  const bool over_skip = c_.skip && c_.over_skip;
  if (over_skip) y_ = skip_;
  arena_.assign(end, 0.0f);
  Random random(c_.seed);
  for (std::int64_t p = 0; p < x_.planes; ++p) {
    for (std::int64_t y = 0; y < c_.height; ++y) {
      for (std::int64_t i = 0; i < c_.width * lanes_; ++i) {
        arena_[x_.offset + p * x_.plane + at(y, 0, pitch_) + i] = random.number();
      }
    }
  }
  for (std::int64_t i = 0; i < skip_.planes * skip_.plane; ++i) {
    arena_[skip_.offset + i] = random.number();
  }
  if (c_.bfloat16) std::transform(arena_.begin(), arena_.end(), arena_.begin(), rounded);
  for (std::int64_t p = 0; !over_skip && p < y_.planes; ++p) {  // to be written, whatever it was
    std::fill_n(arena_.begin() + y_.offset + p * y_.plane, out_height_ * out_pitch_ * lanes_,
                std::numeric_limits<float>::quiet_NaN());
  }
  bias_ = random.numbers(c_.rows);
}

// Blocks of group_rows rows share columns; each row has some more of its own.
void PackedCase::choose_weights() {
  Random random(c_.seed + 1);
  const std::int64_t columns = c_.channels * kTaps;
  weights_.assign(c_.rows * columns, 0.0f);
  for (std::int64_t first = 0; first < c_.rows; first += c_.group_rows) {
    const std::int64_t last = std::min(first + c_.group_rows, c_.rows);
    for (std::int64_t column = 0; column < columns; ++column) {
      const bool block = (random.number() + 1) / 2 < c_.block_share;
      for (std::int64_t row = first; row < last; ++row) {
        const bool own = (random.number() + 1) / 2 < c_.row_share;
        if (block || own) weights_[row * columns + column] = random.number();
      }
    }
  }
  if (c_.bfloat16) std::transform(weights_.begin(), weights_.end(), weights_.begin(), rounded);
}

void PackedCase::make_runs() {
  const auto add_tap_set = [&](const auto& valid) {
    for (std::int32_t tap = 0; tap < kTaps; ++tap) {
      if (valid(tap / 3, tap % 3)) tap_sets_.insert(tap_sets_.end(), {tap, tap + 1});
    }
    tap_set_starts_.push_back(static_cast<std::int64_t>(tap_sets_.size()) / 2);
    return static_cast<std::int64_t>(tap_set_starts_.size()) - 2;
  };
  for (std::int64_t y = 0; y < out_height_ * window(); ++y) {
    const auto row_inside = [&](std::int64_t ky) {
      const std::int64_t in_y = y * c_.stride + ky - 1;
      return in_y >= 0 && in_y < c_.height;
    };
    if (!c_.pixel_mode) {
      const std::int64_t set =
          add_tap_set([&](std::int64_t ky, std::int64_t) { return row_inside(ky); });
      runs_.push_back({at(y, 0, pitch_), at(y, 0, out_pitch_), out_pitch_ * lanes_, set, 0,
                       Combine::kStore, kLanes, kLanes});
      continue;
    }
    for (std::int64_t x = 0; x < out_width_ * window(); ++x) {
      const std::int64_t set = add_tap_set([&](std::int64_t ky, std::int64_t kx) {
        const std::int64_t in_x = x * c_.stride + kx - 1;
        return row_inside(ky) && in_x >= 0 && in_x < c_.width;
      });
      const bool begins = y % window() == 0 && x % window() == 0;
      const Run run = {at(y * c_.stride, x * c_.stride, pitch_),
                       at(y / window(), x / window(), out_pitch_),
                       lanes_,
                       set,
                       -1,
                       begins ? Combine::kStore : c_.pooling,
                       kLanes,
                       kLanes};
      if (!c_.apart) {
        runs_.push_back(run);
      } else if (x <= 1 || x == out_width_ - 1) {
        add_parts(run);
      } else {  // as the pixel before
        for (auto part = runs_.end() - lanes_ / kLanes; part != runs_.end(); ++part) {
          part->lanes += kLanes;
        }
      }
    }
  }
  masks_.assign(out_pitch_ * lanes_ + 16, 0);
  std::fill_n(masks_.begin(), out_width_ * lanes_, -1);
  // A window's runs lie in one chunk: those of pooled layers are cut between rows of windows.
  const auto count = static_cast<std::int64_t>(runs_.size());
  const std::int64_t units = window() == 1 ? count : out_height_;
  for (std::int64_t chunk = 1; chunk <= std::min<std::int64_t>(3, units); ++chunk) {
    chunk_starts_.push_back(chunk * units / std::min<std::int64_t>(3, units) * (count / units));
  }
}

// A run for each vector of a pixel, that goes on from pixel to pixel.
void PackedCase::add_parts(Run run) {
  run.input_step = c_.stride * lanes_;
  run.output_step = lanes_;
  run.lanes = kLanes;
  for (std::int64_t lane = 0; lane < lanes_; lane += kLanes) {
    runs_.push_back(run);
    run.input += kLanes;
    run.output += kLanes;
  }
}

// Columns in the order of the kernels: by tap, then by channel.
void PackedCase::add_group(const std::vector<std::int32_t>& rows,
                           const std::vector<std::int64_t>& columns, std::int32_t flags) {
  rows_list_.insert(rows_list_.end(), rows.begin(), rows.end());
  row_starts_.push_back(static_cast<std::int64_t>(rows_list_.size()));
  offset_starts_.push_back(static_cast<std::int64_t>(offsets_.size()));
  weight_starts_.push_back(static_cast<std::int64_t>(packed_.size()));
  flags_.push_back(flags);
  tap_starts_.push_back(0);
  for (std::int64_t tap = 0; tap < kTaps; ++tap) {
    for (const std::int64_t column : columns) {
      if (column % kTaps != tap) continue;
      offsets_.push_back(static_cast<std::int32_t>(
          column / kTaps * x_.plane + ((tap / 3 - 1) * pitch_ + tap % 3 - 1) * lanes_));
      for (const std::int32_t row : rows) packed_.push_back(weight(row, column));
    }
    tap_starts_.push_back(static_cast<std::int32_t>(static_cast<std::int64_t>(offsets_.size()) -
                                                    offset_starts_.back()));
  }
}

// Two parts. In each, one panel with the blocks (the columns in which all rows of a group have
// weights), and one with what is left, row by row.
void PackedCase::make_groups() {
  const std::int64_t columns = c_.channels * kTaps;
  const std::int64_t groups = (c_.rows + c_.group_rows - 1) / c_.group_rows;
  const std::int64_t parts = std::min<std::int64_t>(2, groups);
  for (std::int64_t part = 0; part < parts; ++part) {
    const std::int64_t begin = part * groups / parts, end = (part + 1) * groups / parts;
    std::vector<std::vector<std::int64_t>> left;
    for (std::int64_t g = begin; g < end; ++g) {
      std::vector<std::int32_t> rows;
      for (std::int64_t row = g * c_.group_rows; row < std::min((g + 1) * c_.group_rows, c_.rows);
           ++row) {
        rows.push_back(static_cast<std::int32_t>(row));
      }
      std::vector<std::int64_t> shared;
      left.resize(left.size() + rows.size());
      for (std::int64_t column = 0; column < columns; ++column) {
        const bool all = std::all_of(rows.begin(), rows.end(),
                                     [&](std::int32_t row) { return weight(row, column) != 0.0f; });
        if (all) shared.push_back(column);
        for (std::size_t i = 0; i < rows.size() && !all; ++i) {
          if (weight(rows[i], column) == 0.0f) continue;
          left[left.size() - rows.size() + i].push_back(column);
        }
      }
      add_group(rows, shared, c_.row_share > 0 ? kFirst : kFirst | kLast);
    }
    panel_starts_.push_back(static_cast<std::int64_t>(flags_.size()));
    for (std::size_t i = 0; i < left.size() && c_.row_share > 0; ++i) {
      const auto row = static_cast<std::int32_t>(begin * c_.group_rows + i);
      add_group({row}, left[i], kLast);
    }
    panel_starts_.push_back(static_cast<std::int64_t>(flags_.size()));
    part_starts_.push_back(static_cast<std::int64_t>(panel_starts_.size()) - 1);
  }
  offsets_.resize(offsets_.size() + kOffsetPadding);
  packed_.resize(packed_.size() + kWeightPadding);
}

void PackedCase::point_layer() {
  layer_.rows = array(rows_list_);
  layer_.row_starts = array(row_starts_);
  layer_.offsets = array(offsets_);
  layer_.offset_starts = array(offset_starts_);
  layer_.tap_starts = array(tap_starts_);
  layer_.weights = array(packed_);
  layer_.weight_starts = array(weight_starts_);
  layer_.flags = array(flags_);
  layer_.bias = array(bias_);
  layer_.runs = array(runs_);
  layer_.tap_sets = array(tap_sets_);
  layer_.tap_set_starts = array(tap_set_starts_);
  layer_.masks = array(masks_);
  layer_.chunk_starts = array(chunk_starts_);
  layer_.part_starts = array(part_starts_);
  layer_.panel_starts = array(panel_starts_);
  layer_.x = x_;
  layer_.y = y_;
  layer_.skip = skip_;
  layer_.activation = c_.activation;
  layer_.scale = c_.pooling == Combine::kAdd ? 0.25f : 1.0f;
  layer_.prefetch = 8;
  layer_.arena_elements = static_cast<std::int64_t>(arena_.size());
}

double PackedCase::sum(std::int64_t n, std::int64_t row, std::int64_t y, std::int64_t x) const {
  double sum = bias_[row];
  for (std::int64_t column = 0; column < c_.channels * kTaps; ++column) {
    const std::int64_t in_y = y * c_.stride + column % kTaps / 3 - 1;
    const std::int64_t in_x = x * c_.stride + column % 3 - 1;
    if (in_y < 0 || in_y >= c_.height || in_x < 0 || in_x >= c_.width) continue;
    const std::int64_t from = x_.offset + column / kTaps * x_.plane + at(in_y, in_x, pitch_) + n;
    sum += double{weight(row, column)} * arena_[from];
  }
  return sum;
}

double PackedCase::expected(std::int64_t n, std::int64_t row, std::int64_t y,
                            std::int64_t x) const {
  const auto output = [&](std::int64_t i) {
    double value = sum(n, row, y * window() + i / window(), x * window() + i % window());
    if (c_.skip) value += arena_[skip_.offset + row * skip_.plane + at(y, x, out_pitch_) + n];
    return activated(c_.activation, value);
  };
  if (window() == 1) return output(0);
  const double a = output(0), b = output(1), c = output(2), d = output(3);
  return c_.pooling == Combine::kMax ? std::max({a, b, c, d}) : (a + b + c + d) / 4;
}

void PackedCase::compare(const std::vector<float>& arena, double tolerance) const {
  Expected wanted(arena_);
  for (std::int64_t row = 0; row < c_.rows; ++row) {
    for (std::int64_t y = 0; y < out_height_; ++y) {
      for (std::int64_t x = 0; x < out_pitch_; ++x) {
        for (std::int64_t n = 0; n < lanes_; ++n) {
          const std::int64_t to = y_.offset + row * y_.plane + at(y, x, out_pitch_) + n;
          wanted.set(to, x < out_width_ ? expected(n, row, y, x) : 0.0);
        }
      }
    }
  }
  wanted.compare(arena, tolerance * static_cast<double>(1 + c_.channels));
}

}  // namespace masktools
