// Row groups at a price: what a swap of two rows gains, evaluated and bounded.
//
// With a price per unit of cost (the Lagrange multiplier of the budget), group g is worth
//     sum over columns c of max(surplus[g][c], 0),   surplus = sum of saliency - price * cost,
// because exactly the columns with a surplus are bought. A swap changes two groups. Two facts make
// a search fast:
//
// 1. `SwapGain` evaluates a swap in one pass over the columns of two groups and two rows.
// 2. The worth is convex in the surplus. So a swap gains at most what its four single steps (i
//    leaves p, j joins p, j leaves q, i joins q) gain one by one. Kept in a table, this bound
//    turns most swaps down with four loads. The table costs an update at each swap.
//
// Results do not depend on the instruction set: sums run in a fixed number of lanes, and products
// are not contracted into their sums (-ffp-contract=off).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

// One variant of each kernel per instruction set, chosen when the library is loaded.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
#define FOR_EACH_ISA __attribute__((target_clones("avx512f", "avx2", "default"))) static
#else
#define FOR_EACH_ISA static
#endif

namespace masktools {

constexpr std::size_t kLanes = 32;

inline std::size_t Padded(std::size_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

inline float Positive(float x) { return x > 0 ? x : 0; }

inline float Sum(float* lanes) {
  for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::size_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

// What a group gains by a row that joins (sign +1) or leaves (sign -1). Arrays hold n values,
// n % kLanes == 0, here and below.
FOR_EACH_ISA float StepGain(const float* surplus, const float* row, float sign, std::size_t n) {
  float lanes[kLanes] = {0};
  for (std::size_t c = 0; c < n; c += kLanes) {
    for (std::size_t l = 0; l < kLanes; ++l) {
      const float before = surplus[c + l];
      lanes[l] += Positive(before + sign * row[c + l]) - Positive(before);
    }
  }
  return Sum(lanes);
}

// What two groups gain together as row i goes from p to q, and row j from q to p.
FOR_EACH_ISA float SwapGain(const float* p, const float* q, const float* i, const float* j,
                            std::size_t n) {
  float lanes[kLanes] = {0};
  for (std::size_t c = 0; c < n; c += kLanes) {
    for (std::size_t l = 0; l < kLanes; ++l) {
      const float moved = j[c + l] - i[c + l];
      lanes[l] += (Positive(p[c + l] + moved) - Positive(p[c + l])) +
                  (Positive(q[c + l] - moved) - Positive(q[c + l]));
    }
  }
  return Sum(lanes);
}

// Moves one column's share of every row's step gain from surplus `before` to `after`.
// sign: +1 for a row that may join the group, -1 for one that may leave it.
FOR_EACH_ISA void Shift(float* step, const float* column, const float* sign, std::size_t rows,
                        float before, float after) {
  const float worth = Positive(before) - Positive(after);
  for (std::size_t r = 0; r < rows; ++r) {
    const float moved = sign[r] * column[r];
    step[r] += (Positive(after + moved) - Positive(before + moved)) + worth;
  }
}

// Whether a step of any row can cross the kink at 0 as a column's surplus goes from a to b.
// Elsewhere every step gains the same before and after.
inline bool Near(float before, float after, float largest) {
  return std::max(before, after) > -largest && std::min(before, after) < largest;
}

// Lets `in` take the place of `out`. Returns how many columns are near the kink.
FOR_EACH_ISA std::size_t Exchange(float* surplus, const float* in, const float* out,
                                  const float* largest, std::size_t n) {
  std::int32_t near[kLanes] = {0};
  for (std::size_t c = 0; c < n; c += kLanes) {
    for (std::size_t l = 0; l < kLanes; ++l) {
      const float before = surplus[c + l];
      const float moved = in[c + l] - out[c + l];
      const float after = before + moved;
      surplus[c + l] = after;
      near[l] += (moved != 0) & (std::max(before, after) > -largest[c + l]) &
                 (std::min(before, after) < largest[c + l]);
    }
  }
  return static_cast<std::size_t>(std::accumulate(near, near + kLanes, 0));
}

// The cost of the columns that the price buys for one group.
FOR_EACH_ISA double Spent(const float* sum, const float* cost, std::size_t n, float price) {
  double lanes[kLanes] = {0};
  for (std::size_t c = 0; c < n; c += kLanes) {
    for (std::size_t l = 0; l < kLanes; ++l) {
      lanes[l] += sum[c + l] > price * cost[c + l] ? cost[c + l] : 0.0f;
    }
  }
  double total = 0;
  for (const double lane : lanes) total += lane;
  return total;
}

// Row groups, their surplus at a price, and the table of single steps.
class Groups {
 public:
  // saliency: rows x columns, row after row; labels: rows; cost: columns. All are copied.
  Groups(const float* saliency, std::size_t rows, std::size_t columns, const std::int32_t* labels,
         const float* cost, double budget)
      : rows_(rows), columns_(columns) {
    if (rows_ == 0 || columns_ == 0) throw std::invalid_argument("expected at least one weight");
    row_stride_ = Padded(columns_);
    column_stride_ = Padded(rows_);
    budget_ = budget;
    label_.assign(labels, labels + rows_);
    if (*std::min_element(label_.begin(), label_.end()) < 0 ||
        *std::max_element(label_.begin(), label_.end()) >= static_cast<std::int32_t>(rows_)) {
      throw std::invalid_argument("expected labels from 0 to at most rows - 1");
    }
    groups_ = static_cast<std::size_t>(*std::max_element(label_.begin(), label_.end())) + 1;
    height_.assign(groups_, 0);
    for (const std::int32_t g : label_) height_[g] += 1;
    cost_.assign(row_stride_, 0);
    std::copy(cost, cost + columns_, cost_.begin());
    Load(saliency);
    Reprice(0);
  }

  std::size_t rows() const { return rows_; }
  std::int32_t label(std::size_t row) const { return label_[row]; }
  const std::vector<std::int32_t>& labels() const { return label_; }
  double price() const { return price_; }
  bool bounded() const { return bounded_; }

  // What the swap of two rows of different groups gains; exact up to rounding.
  float Gain(std::size_t i, std::size_t j) const {
    return SwapGain(Surplus(label_[i]), Surplus(label_[j]), Row(i), Row(j), row_stride_);
  }

  // No less than Gain(i, j). Needs the table.
  float Bound(std::size_t i, std::size_t j) const {
    const float* p = &step_[label_[i] * column_stride_];
    const float* q = &step_[label_[j] * column_stride_];
    return (p[i] + p[j]) + (q[i] + q[j]);
  }

  // Swaps two rows of different groups. Returns the values that the table's update visits,
  // whether or not the table is kept.
  double Swap(std::size_t i, std::size_t j) {
    const std::int32_t p = label_[i], q = label_[j];
    double visited = Replace(p, i, j) + Replace(q, j, i);
    std::swap(label_[i], label_[j]);
    if (bounded_) {
      for (const std::int32_t g : {p, q}) {
        for (const std::size_t row : {i, j}) step_[g * column_stride_ + row] = Step(g, row);
      }
    }
    return visited + 4.0 * static_cast<double>(row_stride_);
  }

  // Builds the table of single steps, and keeps it from now on. Returns the values visited.
  double BuildTable() {
    bounded_ = true;
    step_.assign(groups_ * column_stride_, 0);
    for (std::size_t g = 0; g < groups_; ++g) {
      for (std::size_t r = 0; r < rows_; ++r) step_[g * column_stride_ + r] = Step(g, r);
    }
    return static_cast<double>(groups_ * rows_ * row_stride_);
  }

  // Recomputes sums, which drift as floats do, and the price at which the budget is spent.
  // Returns whether the price moved by more than `tolerance` of itself; if not, all stays.
  bool Reprice(double tolerance) {
    std::vector<float> sum(groups_ * row_stride_, 0);
    for (std::size_t r = 0; r < rows_; ++r) {
      float* to = &sum[label_[r] * row_stride_];
      for (std::size_t c = 0; c < columns_; ++c) to[c] += Row(r)[c];
    }
    const double price = Price(sum);
    if (price_ >= 0 && std::abs(price - price_) <= tolerance * price_) return false;
    price_ = price;
    surplus_ = std::move(sum);
    for (std::size_t g = 0; g < groups_; ++g) {
      const float unit = static_cast<float>(price_ * height_[g]);
      for (std::size_t c = 0; c < row_stride_; ++c) {
        surplus_[g * row_stride_ + c] -= unit * cost_[c];
      }
    }
    return true;
  }

  // The mean worth that a row adds to its group: the scale of temperatures.
  double MeanStep() const {
    double total = 0;
    for (std::size_t r = 0; r < rows_; ++r) total -= Step(label_[r], r);
    return total / static_cast<double>(rows_);
  }

  double GainWork() const { return 2.0 * static_cast<double>(row_stride_); }

 private:
  const float* Row(std::size_t r) const { return &by_row_[r * row_stride_]; }
  const float* Surplus(std::size_t g) const { return &surplus_[g * row_stride_]; }

  void Load(const float* saliency) {
    by_row_.assign(rows_ * row_stride_, 0);
    by_column_.assign(columns_ * column_stride_, 0);
    largest_.assign(row_stride_, 0);
    sign_.assign(column_stride_, 0);
    for (std::size_t r = 0; r < rows_; ++r) {
      for (std::size_t c = 0; c < columns_; ++c) {
        const float value = saliency[r * columns_ + c];
        if (!(value >= 0) || std::isinf(value)) {
          throw std::invalid_argument("expected saliency that is finite and not negative");
        }
        by_row_[r * row_stride_ + c] = value;
        largest_[c] = std::max(largest_[c], value);
      }
    }
    constexpr std::size_t kTile = 16;  // rows: a cache line of by_column_
    for (std::size_t first = 0; first < rows_; first += kTile) {
      const std::size_t end = std::min(first + kTile, rows_);
      for (std::size_t c = 0; c < columns_; ++c) {
        for (std::size_t r = first; r < end; ++r) by_column_[c * column_stride_ + r] = Row(r)[c];
      }
    }
  }

  double Price(const std::vector<float>& sum) const {
    double low = 0, high = 0;
    for (std::size_t c = 0; c < columns_; ++c) {
      if (cost_[c] > 0) high = std::max(high, static_cast<double>(largest_[c]) / cost_[c]);
    }
    for (int halving = 0; halving < 40; ++halving) {
      const double middle = (low + high) / 2;
      double spent = 0;
      for (std::size_t g = 0; g < groups_; ++g) {
        spent += height_[g] * Spent(&sum[g * row_stride_], cost_.data(), row_stride_,
                                    static_cast<float>(middle * height_[g]));
      }
      (spent > budget_ ? low : high) = middle;
    }
    return high;
  }

  float Step(std::size_t group, std::size_t row) const {
    const float sign = label_[row] == static_cast<std::int32_t>(group) ? -1.0f : 1.0f;
    return StepGain(Surplus(group), Row(row), sign, row_stride_);
  }

  // Lets `in` take the place of `out` in group g and, where the table is kept, shifts it. Returns
  // the values that the shift visits, kept or not.
  double Replace(std::int32_t g, std::size_t out, std::size_t in) {
    float* surplus = &surplus_[g * row_stride_];
    if (bounded_) {
      for (std::size_t r = 0; r < rows_; ++r) sign_[r] = label_[r] == g ? -1.0f : 1.0f;
      for (std::size_t c = 0; c < columns_; ++c) {
        const float moved = Row(in)[c] - Row(out)[c];
        const float before = surplus[c], after = before + moved;
        if (moved == 0 || !Near(before, after, largest_[c])) continue;
        Shift(&step_[g * column_stride_], &by_column_[c * column_stride_], sign_.data(),
              column_stride_, before, after);
      }
    }
    const std::size_t near = Exchange(surplus, Row(in), Row(out), largest_.data(), row_stride_);
    return static_cast<double>(near * column_stride_);
  }

  std::size_t rows_, columns_, groups_, row_stride_, column_stride_;
  double budget_, price_ = -1;
  bool bounded_ = false;
  std::vector<std::int32_t> label_, height_;
  std::vector<float> cost_;       // row_stride_
  std::vector<float> by_row_;     // rows_ x row_stride_
  std::vector<float> by_column_;  // columns_ x column_stride_
  std::vector<float> largest_;    // row_stride_: the largest saliency
  std::vector<float> surplus_;    // groups_ x row_stride_; never positive in the padding
  std::vector<float> step_;       // groups_ x column_stride_: gain of row r joining or leaving g
  std::vector<float> sign_;       // column_stride_
};

}  // namespace masktools
