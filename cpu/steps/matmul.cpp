#include "steps/matmul.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <stdexcept>
#include <utility>

#include "simd/bfloat16.h"
#include "simd/vector.h"

namespace masktools {
namespace {

// A tile of kRows x kColumns sums lies in registers; the tiles of a block of kBlockRows x
// kBlockColumns share kDepth rows of b and columns of a, packed so that they are read in order.
constexpr std::int64_t kRows = kRegisters == 32 ? 12 : 6;
constexpr std::int64_t kColumns = 2 * kLanes;
constexpr std::int64_t kBlockRows = 192, kBlockColumns = 192, kDepth = 128;
static_assert(kBlockRows % kRows == 0 && kBlockColumns % kColumns == 0, "blocks hold whole tiles");

// Multiplications of an item: enough to be worth fetching.
constexpr std::int64_t kItemWork = 1 << 16;
constexpr std::int64_t kMostItems = 4096;

std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// sums[r][c] += the sum over `depth` of a[k][r] b[k][c], for r < R of kRows packed rows.
template <int R>
void add_tile(const float* a, const float* b, float* sums, std::int64_t depth) {
  Vector made[R][2];
  for (int r = 0; r < R; ++r) {
    made[r][0] = load(sums + r * kBlockColumns);
    made[r][1] = load(sums + r * kBlockColumns + kLanes);
  }
  for (std::int64_t k = 0; k < depth; ++k, a += kRows, b += kColumns) {
    const Vector first = load(b), second = load(b + kLanes);
    for (int r = 0; r < R; ++r) {
      const Vector value = broadcast(a[r]);
      made[r][0] += value * first;
      made[r][1] += value * second;
    }
  }
  for (int r = 0; r < R; ++r) {
    store(sums + r * kBlockColumns, made[r][0]);
    store(sums + r * kBlockColumns + kLanes, made[r][1]);
  }
}

using AddTile = void (*)(const float*, const float*, float*, std::int64_t);

// The tile of at least so many rows: rows beyond them are computed and not read.
AddTile tile_of(std::int64_t rows) {
  if (rows <= 1) return add_tile<1>;
  if (rows <= 2) return add_tile<2>;
  if (rows <= 4) return add_tile<4>;
  if (rows <= 6) return add_tile<6>;
  return add_tile<kRows>;
}

// One matrix, from 0: element (i, j) is at i * row + j * column.
struct Strides {
  std::int64_t row, column;
};

// Panels of kWidth columns: element (k, j) of the matrix becomes packed[j / kWidth][k][j % kWidth].
// Columns up to a whole panel are zeros.
template <std::int64_t kWidth, class T>
void pack(const T* from, Strides at, std::int64_t depth, std::int64_t columns, float* packed) {
  for (std::int64_t j = 0; j < columns; j += kWidth, packed += depth * kWidth) {
    const T* panel = from + j * at.column;
    const std::int64_t width = std::min(kWidth, columns - j);
    if (width < kWidth) std::fill_n(packed, depth * kWidth, 0.0f);
    if (at.column == 1) {
      for (std::int64_t k = 0; k < depth; ++k) {
        for (std::int64_t c = 0; c < width; ++c) {
          packed[k * kWidth + c] = static_cast<float>(panel[k * at.row + c]);
        }
      }
    } else {
      for (std::int64_t c = 0; c < width; ++c) {
        for (std::int64_t k = 0; k < depth; ++k) {
          packed[k * kWidth + c] = static_cast<float>(panel[k * at.row + c * at.column]);
        }
      }
    }
  }
}

// A unit of work is a block of one matrix of y.
template <class T>
class MatMul final : public Operation {
 public:
  // The matrices' rows are those along which y's elements lie further apart.
  MatMul(const View& a, const View& b, const View& y)
      : depth_(a.shape[a.rank - 1]),
        rows_(y.shape[y.rank - 2]),
        columns_(y.shape[y.rank - 1]),
        a_{a.strides[a.rank - 1], a.strides[a.rank - 2]},
        b_{b.strides[b.rank - 2], b.strides[b.rank - 1]},
        y_{y.strides[y.rank - 2], y.strides[y.rank - 1]},
        batch_({outer(y), outer(a), outer(b)}),
        row_blocks_(ceil_divide(rows_, kBlockRows)),
        column_blocks_(ceil_divide(columns_, kBlockColumns)) {
    const std::int64_t units = this->units();
    if (units == 0 || y.elements() == 0) return;
    const std::int64_t block = std::min(rows_, kBlockRows) * std::min(columns_, kBlockColumns);
    const std::int64_t work = std::max<std::int64_t>(block * depth_, 1);
    const std::int64_t together = std::max<std::int64_t>(kItemWork / work, 1);
    items_ = std::min(ceil_divide(units, together), kMostItems);
  }

  std::int64_t items() const override { return items_; }

  std::int64_t scratch_bytes() const override {
    const std::int64_t floats = kBlockRows * kBlockColumns + kDepth * (kBlockRows + kBlockColumns);
    return floats * static_cast<std::int64_t>(sizeof(float));
  }

  void execute(std::int64_t item, const Buffers& buffers, std::byte* scratch) const override {
    T* arena = reinterpret_cast<T*>(buffers.arena);
    const std::int64_t of_matrix = row_blocks_ * column_blocks_, last = units();
    const std::int64_t end = part_start(item + 1, items_, last);
    for (std::int64_t unit = part_start(item, items_, last); unit < end; ++unit) {
      const std::int64_t matrix = unit / of_matrix, rest = unit % of_matrix;
      for_each_row<0>(batch_, matrix, matrix + 1, [&](const std::array<std::int64_t, 3>& at) {
        block(arena + at[1], arena + at[2], arena + at[0], rest / column_blocks_ * kBlockRows,
              rest % column_blocks_ * kBlockColumns, reinterpret_cast<float*>(scratch));
      });
    }
  }

 private:
  static View outer(View view) {
    view.shape[view.rank - 2] = view.shape[view.rank - 1] = 1;
    return view;
  }

  std::int64_t units() const {
    return batch_.outer() * batch_.inner() * row_blocks_ * column_blocks_;
  }

  void block(const T* a, const T* b, T* y, std::int64_t row, std::int64_t column,
             float* sums) const {
    float *packed_a = sums + kBlockRows * kBlockColumns, *packed_b = packed_a + kDepth * kBlockRows;
    const std::int64_t rows = std::min(kBlockRows, rows_ - row);
    const std::int64_t columns = std::min(kBlockColumns, columns_ - column);
    const std::int64_t whole = ceil_divide(columns, kColumns) * kColumns;
    for (std::int64_t r = 0; r < ceil_divide(rows, kRows) * kRows; ++r) {
      std::fill_n(sums + r * kBlockColumns, whole, 0.0f);
    }
    for (std::int64_t k = 0; k < depth_; k += kDepth) {
      const std::int64_t depth = std::min(kDepth, depth_ - k);
      pack<kRows>(a + k * a_.row + row * a_.column, a_, depth, rows, packed_a);
      pack<kColumns>(b + k * b_.row + column * b_.column, b_, depth, columns, packed_b);
      for (std::int64_t c = 0; c < columns; c += kColumns) {
        for (std::int64_t r = 0; r < rows; r += kRows) {
          tile_of(rows - r)(packed_a + r * depth, packed_b + c * depth,
                            sums + r * kBlockColumns + c, depth);
        }
      }
    }
    write(sums, y + row * y_.row + column * y_.column, rows, columns);
  }

  void write(const float* sums, T* y, std::int64_t rows, std::int64_t columns) const {
    for (std::int64_t r = 0; r < rows; ++r, sums += kBlockColumns, y += y_.row) {
      if (y_.column == 1) {
        for (std::int64_t c = 0; c < columns; ++c) y[c] = static_cast<T>(sums[c]);
      } else {
        for (std::int64_t c = 0; c < columns; ++c) y[c * y_.column] = static_cast<T>(sums[c]);
      }
    }
  }

  const std::int64_t depth_, rows_, columns_;
  const Strides a_, b_, y_;  // a's turned: rows are its columns, along the depth
  const Nest<3> batch_;      // y, a, b
  const std::int64_t row_blocks_, column_blocks_;
  std::int64_t items_ = 0;
};

// The last two axes in the other order.
View turned(View view) {
  std::swap(view.shape[view.rank - 1], view.shape[view.rank - 2]);
  std::swap(view.strides[view.rank - 1], view.strides[view.rank - 2]);
  return view;
}

}  // namespace

template <class T>
std::unique_ptr<const Operation> make_matmul(const View& a, const View& b, const View& y,
                                             std::int64_t arena_elements) {
  check_readable(a, arena_elements, "matmul: a");
  check_readable(b, arena_elements, "matmul: b");
  check_writable(y, arena_elements, "matmul: y");
  const int rank = y.rank;
  if (rank < 2 || a.rank != rank || b.rank != rank) {
    throw std::invalid_argument("matmul: expected a, b and y of one rank, 2 or more");
  }
  View expected = y;
  expected.shape[rank - 1] = b.shape[rank - 2];
  check_same_shape(expected, a, "matmul: a");
  expected = y;
  expected.shape[rank - 2] = a.shape[rank - 1];
  check_same_shape(expected, b, "matmul: b");
  // Transposed, a product is that of the other factors transposed: y is written along its rows.
  if (std::abs(y.strides[rank - 2]) < std::abs(y.strides[rank - 1])) {
    return std::make_unique<MatMul<T>>(turned(b), turned(a), turned(y));
  }
  return std::make_unique<MatMul<T>>(a, b, y);
}

#define INSTANTIATE(T)                                                                            \
  template std::unique_ptr<const Operation> make_matmul<T>(const View&, const View&, const View&, \
                                                           std::int64_t);
INSTANTIATE(float)
INSTANTIATE(Bfloat16)
#undef INSTANTIATE

}  // namespace masktools
