#include "steps/elementwise.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <type_traits>

#include "simd/activate.h"
#include "simd/bfloat16.h"
#include "simd/epilogue.h"
#include "simd/vector.h"

namespace masktools {
namespace {

constexpr int kOperands = 3;
constexpr std::int64_t kChunk = 256;      // elements at a time: all buffers stay in the first cache
constexpr std::int64_t kTogether = 2048;  // elements of short rows at a time

// Rows of an operand, as the loops of `compute` read them: elements next to each other, or one for
// a whole row.
struct Values {
  const float* data;
  bool repeated;
  std::int64_t row = 0;  // elements from one row to the next
};

// What is computed: `rows` rows of n elements next to each other.
struct Result {
  float* data;
  std::int64_t n;
  std::int64_t rows = 1, row = 0;
};

// y = f(a, b), for f of vectors. y may be a or b. Rows are often shorter than a vector.
template <class Function>
void map(const Values& a, const Values& b, const Result& y, const Function& f) {
  const auto each = [&](auto left, auto right) {
    for (std::int64_t r = 0; r < y.rows; ++r) {
      float* to = y.data + r * y.row;
      std::int64_t i = 0;
      for (; i + kLanes <= y.n; i += kLanes) {
        store(to + i, f(left(r, i, kLanes), right(r, i, kLanes)));
      }
      const std::int64_t rest = y.n - i;
      if (rest > 0) store(to + i, f(left(r, i, rest), right(r, i, rest)), rest);
    }
  };
  const auto one = [](const Values& v) {
    return [v](std::int64_t row, std::int64_t, std::int64_t) {
      return broadcast(v.data[row * v.row]);
    };
  };
  const auto many = [](const Values& v) {
    return [v](std::int64_t row, std::int64_t i, std::int64_t lanes) {
      const float* from = v.data + row * v.row + i;
      return lanes == kLanes ? load(from) : load(from, lanes);
    };
  };
  if (a.repeated && b.repeated) return each(one(a), one(b));
  if (a.repeated) return each(one(a), many(b));
  if (b.repeated) return each(many(a), one(b));
  return each(many(a), many(b));
}

// y = a where it is not zero, b elsewhere, of a chunk at most.
void choose(const Values* v, const Result& y) {
  for (std::int64_t r = 0; r < y.rows; ++r) {
    const auto at = [&](int operand, std::int64_t i) {
      return v[operand].data[r * v[operand].row + (v[operand].repeated ? 0 : i)];
    };
    float* to = y.data + r * y.row;
    for (std::int64_t i = 0; i < y.n; ++i) to[i] = at(0, i) != 0.0f ? at(1, i) : at(2, i);
  }
}

void compute(Arithmetic arithmetic, const Values* v, const Result& y) {
  const Vector zero = {}, ones = broadcast(1.0f);
  const auto add = [](Vector a, Vector b) { return a + b; };
  const auto multiply = [](Vector a, Vector b) { return a * b; };
  switch (arithmetic) {
    case Arithmetic::kIdentity:
      return map(v[0], v[0], y, [](Vector a, Vector) { return a; });
    case Arithmetic::kAdd:
      return map(v[0], v[1], y, add);
    case Arithmetic::kSub:
      return map(v[0], v[1], y, [](Vector a, Vector b) { return a - b; });
    case Arithmetic::kMul:
      return map(v[0], v[1], y, multiply);
    case Arithmetic::kDiv:
      return map(v[0], v[1], y, [](Vector a, Vector b) { return a / b; });
    case Arithmetic::kMax:
      return map(v[0], v[1], y, [](Vector a, Vector b) { return maximum(a, b); });
    case Arithmetic::kMin:
      return map(v[0], v[1], y, [](Vector a, Vector b) { return minimum(a, b); });
    case Arithmetic::kPRelu:
      return map(v[0], v[1], y, [=](Vector a, Vector b) { return a < zero ? a * b : a; });
    case Arithmetic::kGreater:
      return map(v[0], v[1], y, [=](Vector a, Vector b) { return a > b ? ones : zero; });
    case Arithmetic::kGreaterOrEqual:
      return map(v[0], v[1], y, [=](Vector a, Vector b) { return a >= b ? ones : zero; });
    case Arithmetic::kEqual:
      return map(v[0], v[1], y, [=](Vector a, Vector b) { return a == b ? ones : zero; });
    case Arithmetic::kWhere:
      return choose(v, y);
    case Arithmetic::kScaleShift: {
      map(v[0], v[1], y, multiply);
      return map(Values{y.data, false, y.row}, v[2], y, add);
    }
  }
}

template <class T>
class Elementwise final : public Operation {
 public:
  Elementwise(Arithmetic arithmetic, const std::array<View, kOperands + 1>& views,
              const std::vector<Operand>& operands, const Activation& activation)
      : arithmetic_(arithmetic),
        activation_(activation),
        operands_(static_cast<int>(operands.size())),
        nest_(views),
        cut_(nest_.outer(), nest_.inner(), kChunk),
        in_place_(is_in_place()) {
    for (int v = 0; v < operands_; ++v) {
      if (operands[v].constant == nullptr) continue;
      const float* data = operands[v].constant;
      constants_[v].assign(data, data + operands[v].view.elements());
      constant_[v] = true;
    }
  }

  std::int64_t items() const override { return cut_.items(); }

  void execute(std::int64_t item, const Buffers& buffers, std::byte*) const override {
    T* arena = reinterpret_cast<T*>(buffers.arena);
    cut_.for_each(
        item, [&](std::int64_t first, std::int64_t last, std::int64_t begin, std::int64_t end) {
          for_rows_together(nest_, first, last, [&](const Offsets& at, std::int64_t rows) {
            execute_rows(at, rows, begin, end, arena);
          });
        });
  }

 private:
  using Offsets = std::array<std::int64_t, kOperands + 1>;

  // Elements [begin, end) of rows that lie at one distance.
  void execute_rows(Offsets at, std::int64_t rows, std::int64_t begin, std::int64_t end,
                    T* arena) const {
    const std::int64_t n = end - begin;
    const bool is_short = in_place_ && n <= kChunk;
    const std::int64_t together = is_short ? std::max<std::int64_t>(kTogether / n, 1) : 1;
    for (std::int64_t r = 0; r < rows; r += together) {
      const std::int64_t count = std::min(together, rows - r);
      if (is_short) {
        execute_in_place(at, begin, n, count, arena);
      } else {
        for (std::int64_t i = begin; i < end; i += kChunk) {
          execute_chunk(at, i, std::min(kChunk, end - i), arena);
        }
      }
      for (int v = 0; v <= kOperands; ++v) at[v] += count * nest_.row_stride(v);
    }
  }

  void execute_chunk(const Offsets& at, std::int64_t begin, std::int64_t n, T* arena) const {
    alignas(64) float buffers[kOperands + 1][kChunk];
    Values values[kOperands];
    for (int v = 0; v < operands_; ++v) {
      const std::int64_t stride = nest_.inner_stride(v + 1);
      const std::int64_t from = at[v + 1] + begin * stride;
      values[v] = constant_[v] ? gathered(constants_[v].data() + from, stride, n, buffers[v])
                               : gathered(arena + from, stride, n, buffers[v]);
    }
    const std::int64_t stride = nest_.inner_stride(0);
    T* to = arena + at[0] + begin * stride;
    float* y = buffers[kOperands];
    if constexpr (std::is_same_v<T, float>) {
      if (stride == 1) y = to;
    }
    compute(arithmetic_, values, {y, n});
    activate(activation_, y, n);
    if (y != buffers[kOperands]) return;
    for (std::int64_t i = 0; i < n; ++i) to[i * stride] = static_cast<T>(y[i]);
  }

  // Whether elements of all rows are floats next to each other, or one for all of a row.
  bool is_in_place() const {
    if (!std::is_same_v<T, float> || nest_.inner_stride(0) != 1) return false;
    for (int v = 1; v <= operands_; ++v) {
      if (nest_.inner_stride(v) != 0 && nest_.inner_stride(v) != 1) return false;
    }
    return true;
  }

  void execute_in_place(const Offsets& at, std::int64_t begin, std::int64_t n, std::int64_t rows,
                        T* arena) const {
    if constexpr (std::is_same_v<T, float>) {
      Values values[kOperands];
      for (int v = 0; v < operands_; ++v) {
        const std::int64_t stride = nest_.inner_stride(v + 1);
        const float* data = constant_[v] ? constants_[v].data() : arena;
        values[v] = {data + at[v + 1] + begin * stride, stride == 0, nest_.row_stride(v + 1)};
      }
      const Result y{arena + at[0] + begin, n, rows, nest_.row_stride(0)};
      compute(arithmetic_, values, y);
      if (activation_.op == Activation::Op::kNone) return;
      for (std::int64_t r = 0; r < rows; ++r) activate(activation_, y.data + r * y.row, n);
    }
  }

  // In place where they are floats and next to each other or one for all, else in the buffer.
  template <class From>
  static Values gathered(const From* from, std::int64_t stride, std::int64_t n, float* buffer) {
    if constexpr (std::is_same_v<From, float>) {
      if (stride == 1) return {from, false};
      if (stride == 0) return {from, true};
    }
    const std::int64_t count = stride == 0 ? 1 : n;
    for (std::int64_t i = 0; i < count; ++i) buffer[i] = static_cast<float>(from[i * stride]);
    return {buffer, stride == 0};
  }

  const Arithmetic arithmetic_;
  const Activation activation_;
  const int operands_;
  const Nest<kOperands + 1> nest_;  // y, then the operands
  const Cut cut_;
  const bool in_place_;
  std::array<std::vector<float>, kOperands> constants_;
  std::array<bool, kOperands> constant_{};
};

}  // namespace

int operands_of(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::kIdentity:
      return 1;
    case Arithmetic::kScaleShift:
    case Arithmetic::kWhere:
      return 3;
    default:
      return 2;
  }
}

template <class T>
std::unique_ptr<const Operation> make_elementwise(Arithmetic arithmetic,
                                                  const std::vector<Operand>& operands,
                                                  const View& y, const Activation& activation,
                                                  std::int64_t arena_elements) {
  check_writable(y, arena_elements, "elementwise: y");
  if (static_cast<int>(operands.size()) != operands_of(arithmetic)) {
    throw std::invalid_argument("elementwise: wrong number of operands");
  }
  std::array<View, kOperands + 1> views;
  views.fill(y);  // those that are not used follow y
  for (std::size_t v = 0; v < operands.size(); ++v) {
    if (operands[v].constant == nullptr) {
      check_readable(operands[v].view, arena_elements, "elementwise: operand");
    }
    views[v + 1] = broadcast_to(operands[v].view, y.rank, y.shape);
  }
  return std::make_unique<Elementwise<T>>(arithmetic, views, operands, activation);
}

template std::unique_ptr<const Operation> make_elementwise<float>(Arithmetic,
                                                                  const std::vector<Operand>&,
                                                                  const View&, const Activation&,
                                                                  std::int64_t);
template std::unique_ptr<const Operation> make_elementwise<Bfloat16>(Arithmetic,
                                                                     const std::vector<Operand>&,
                                                                     const View&, const Activation&,
                                                                     std::int64_t);

}  // namespace masktools
