// The transforms of F(4x4, 3x3) at the points 0, a, -a, b, -b and infinity, a = 3/4, b = 4/3, and
// the products between them. Lanes are tiles, so that no vector is shuffled.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/winograd.h"
#include "simd/vector.h"

namespace masktools {

constexpr int kTile = 6;     // inputs of a tile along an axis
constexpr int kTileOut = 4;  // outputs of a tile along an axis

constexpr float kA = 3.0f / 4.0f, kB = 4.0f / 3.0f;  // their product is 1
constexpr float kA2 = 9.0f / 16.0f, kB2 = 16.0f / 9.0f;
constexpr float kA3 = 27.0f / 64.0f, kB3 = 64.0f / 27.0f;

// One axis of the input's transform: the coefficients of the product of all x - p but one, for
// each point p; ab = 1, so that the product of all is x (x^4 - (a^2 + b^2) x^2 + 1).
inline void transform_input_axis(const Vector (&d)[kTile], Vector (&v)[kTile]) {
  const Vector even_a = d[4] - kB2 * d[2], odd_a = kA * d[3] - kB * d[1];
  const Vector even_b = d[4] - kA2 * d[2], odd_b = kB * d[3] - kA * d[1];
  v[0] = d[0] + (d[4] - (kA2 + kB2) * d[2]);
  v[1] = even_a + odd_a;
  v[2] = even_a - odd_a;
  v[3] = even_b + odd_b;
  v[4] = even_b - odd_b;
  v[5] = d[1] + (d[5] - (kA2 + kB2) * d[3]);
}

// One axis of the output's transform: powers of the points.
inline void transform_output_axis(const Vector (&m)[kTile], Vector (&y)[kTileOut]) {
  const Vector sum_a = m[1] + m[2], difference_a = m[1] - m[2];
  const Vector sum_b = m[3] + m[4], difference_b = m[3] - m[4];
  y[0] = m[0] + sum_a + sum_b;
  y[1] = kA * difference_a + kB * difference_b;
  y[2] = kA2 * sum_a + kB2 * sum_b;
  y[3] = m[5] + kA3 * difference_a + kB3 * difference_b;
}

// Transforms one vector of tiles: v[position * stride] from in[position] + lane.
inline void transform_input(const float* const (&in)[kPositions], std::int64_t lane, float* v,
                            std::int64_t stride) {
  Vector half[kTile][kTile];  // [x][transformed y]
  for (int x = 0; x < kTile; ++x) {
    Vector d[kTile];
    for (int y = 0; y < kTile; ++y) d[y] = load(in[y * kTile + x] + lane);
    transform_input_axis(d, half[x]);
  }
  for (int y = 0; y < kTile; ++y) {
    Vector d[kTile], t[kTile];
    for (int x = 0; x < kTile; ++x) d[x] = half[x][y];
    transform_input_axis(d, t);
    for (int x = 0; x < kTile; ++x) store(v + (y * kTile + x) * stride, t[x]);
  }
}

// Transforms one vector of tiles back: 16 outputs y[position * y_stride] from m[position *
// stride]. Returns the sum of the outputs: it is not finite where one of them is not.
inline Vector transform_output(const float* m, std::int64_t stride, float* y,
                               std::int64_t y_stride) {
  Vector half[kTile][kTileOut];  // [x][y]
  for (int x = 0; x < kTile; ++x) {
    Vector d[kTile];
    for (int y = 0; y < kTile; ++y) d[y] = load(m + (y * kTile + x) * stride);
    transform_output_axis(d, half[x]);
  }
  Vector sum{};
  for (int i = 0; i < kTileOut; ++i) {
    Vector d[kTile], t[kTileOut];
    for (int x = 0; x < kTile; ++x) d[x] = half[x][i];
    transform_output_axis(d, t);
    for (int j = 0; j < kTileOut; ++j) store(y + (i * kTileOut + j) * y_stride, t[j]);
    sum += (t[0] + t[1]) + (t[2] + t[3]);
  }
  return sum;
}

// The filter w[3 * y + x] whose transform is u[position * stride]: at zero and at infinity that
// holds the outer taps themselves; what lies between is the difference at a and -a.
inline void filter_of(const float* u, std::int64_t stride, float (&w)[9]) {
  constexpr float kMiddle = kA * (kA2 - kB2);
  constexpr float kRounding = 1e-6f;  // of the largest entry: what a tap of zero may come back as
  float half[3][kTile], largest = 0.0f;  // [y][transformed x]
  const auto at = [&](int y, int x) { return u[(y * kTile + x) * stride]; };
  for (int x = 0; x < kTile; ++x) {
    half[0][x] = at(0, x);
    half[1][x] = (at(1, x) - at(2, x)) * kMiddle;
    half[2][x] = at(kTile - 1, x);
    for (int y = 0; y < kTile; ++y) largest = std::max(largest, std::abs(at(y, x)));
  }
  for (int y = 0; y < 3; ++y) {
    w[3 * y] = half[y][0];
    w[3 * y + 1] = (half[y][1] - half[y][2]) * kMiddle;
    w[3 * y + 2] = half[y][kTile - 1];
  }
  for (int tap : {1, 3, 4, 5, 7}) {
    if (std::abs(w[tap]) < kRounding * largest) w[tap] = 0.0f;
  }
}

// out[r][lane] = sum over c of weights[c * kWinogradRows + r] * x[c][lane], for kRows rows and
// kVectors vectors of lanes; x and out have `lanes` lanes in a row.
template <int kRows, int kVectors>
void multiply(const float* weights, const float* x, std::int64_t columns, float* out,
              std::int64_t lanes) {
  constexpr std::int64_t kAhead = 16;  // columns
  Vector sum[kRows][kVectors] = {};
  for (std::int64_t c = 0; c < columns; ++c) {
    __builtin_prefetch(weights + kAhead * kWinogradRows);
    Vector v[kVectors];
    for (int i = 0; i < kVectors; ++i) {
      __builtin_prefetch(x + kAhead * lanes + i * kLanes);
      v[i] = load(x + i * kLanes);
    }
    for (int r = 0; r < kRows; ++r) {
      for (int i = 0; i < kVectors; ++i) sum[r][i] += weights[r] * v[i];
    }
    weights += kWinogradRows;
    x += lanes;
  }
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kVectors; ++i) store(out + r * lanes + i * kLanes, sum[r][i]);
  }
}

// The same for kWinogradRows rows and all lanes: as many at a time as the registers hold sums of.
inline void multiply_rows(const float* weights, const float* x, std::int64_t columns, float* out,
                          std::int64_t lanes) {
  constexpr bool kMany = kRegisters == 32;
  constexpr int kWide = kMany ? 8 : 4, kSingle = kMany ? 16 : 8;
  if (lanes == kLanes) {
    for (std::int64_t r = 0; r < kWinogradRows; r += kSingle) {
      multiply<kSingle, 1>(weights + r, x, columns, out + r * lanes, lanes);
    }
    return;
  }
  for (std::int64_t lane = 0; lane < lanes; lane += 2 * kLanes) {
    for (std::int64_t r = 0; r < kWinogradRows; r += kWide) {
      multiply<kWide, 2>(weights + r, x + lane, columns, out + r * lanes + lane, lanes);
    }
  }
}

}  // namespace masktools
