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
constexpr std::int64_t kChunk = 256;  // elements at a time: all buffers stay in the first cache

// `n` elements of an operand, as the loops of `compute` read them: next to each other, or one for
// all.
struct Values {
  const float* data;
  bool repeated;
};

// The same elements, next to each other: in `buffer` where they are one for all.
const float* spread(const Values& v, std::int64_t n, float* buffer) {
  if (!v.repeated) return v.data;
  std::fill_n(buffer, n, *v.data);
  return buffer;
}

// y[i] = f(a[i], b[i]), for f of vectors. y may be a or b. Rows are often shorter than a vector.
template <class Function>
void map(const Values& a, const Values& b, float* y, std::int64_t n, const Function& f) {
  const auto vectors = [&](auto left, auto right) {
    std::int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(y + i, f(left(i, kLanes), right(i, kLanes)));
    if (i < n) store(y + i, f(left(i, n - i), right(i, n - i)), n - i);
  };
  const auto one = [](const Values& v) {
    return [value = broadcast(*v.data)](std::int64_t, std::int64_t) { return value; };
  };
  const auto each = [](const Values& v) {
    return [data = v.data](std::int64_t i, std::int64_t lanes) {
      return lanes == kLanes ? load(data + i) : load(data + i, lanes);
    };
  };
  if (a.repeated && b.repeated) return vectors(one(a), one(b));
  if (a.repeated) return vectors(one(a), each(b));
  if (b.repeated) return vectors(each(a), one(b));
  return vectors(each(a), each(b));
}

void compute(Arithmetic arithmetic, const Values* v, float* y, std::int64_t n) {
  const Vector zero = {}, ones = broadcast(1.0f);
  const auto add = [](Vector a, Vector b) { return a + b; };
  const auto multiply = [](Vector a, Vector b) { return a * b; };
  switch (arithmetic) {
    case Arithmetic::kIdentity:
      return map(v[0], v[0], y, n, [](Vector a, Vector) { return a; });
    case Arithmetic::kAdd:
      return map(v[0], v[1], y, n, add);
    case Arithmetic::kSub:
      return map(v[0], v[1], y, n, [](Vector a, Vector b) { return a - b; });
    case Arithmetic::kMul:
      return map(v[0], v[1], y, n, multiply);
    case Arithmetic::kDiv:
      return map(v[0], v[1], y, n, [](Vector a, Vector b) { return a / b; });
    case Arithmetic::kMax:
      return map(v[0], v[1], y, n, [](Vector a, Vector b) { return maximum(a, b); });
    case Arithmetic::kMin:
      return map(v[0], v[1], y, n, [](Vector a, Vector b) { return minimum(a, b); });
    case Arithmetic::kPRelu:
      return map(v[0], v[1], y, n, [=](Vector a, Vector b) { return a < zero ? a * b : a; });
    case Arithmetic::kGreater:
      return map(v[0], v[1], y, n, [=](Vector a, Vector b) { return a > b ? ones : zero; });
    case Arithmetic::kGreaterOrEqual:
      return map(v[0], v[1], y, n, [=](Vector a, Vector b) { return a >= b ? ones : zero; });
    case Arithmetic::kEqual:
      return map(v[0], v[1], y, n, [=](Vector a, Vector b) { return a == b ? ones : zero; });
    case Arithmetic::kWhere: {
      float buffers[kOperands][kChunk];
      const float* a = spread(v[0], n, buffers[0]);
      const float* b = spread(v[1], n, buffers[1]);
      const float* c = spread(v[2], n, buffers[2]);
      for (std::int64_t i = 0; i < n; ++i) y[i] = a[i] != 0.0f ? b[i] : c[i];
      return;
    }
    case Arithmetic::kScaleShift: {
      map(v[0], v[1], y, n, multiply);
      return map(Values{y, false}, v[2], y, n, add);
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
        cut_(nest_.outer(), nest_.inner(), kChunk) {
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
    cut_.for_each(item,
                  [&](std::int64_t first, std::int64_t last, std::int64_t begin, std::int64_t end) {
                    for_each_row<1>(nest_, first, last, [&](const Offsets& at) {
                      for (std::int64_t i = begin; i < end; i += kChunk) {
                        execute_chunk(at, i, std::min(kChunk, end - i), arena);
                      }
                    });
                  });
  }

 private:
  using Offsets = std::array<std::int64_t, kOperands + 1>;

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
    compute(arithmetic_, values, y, n);
    activate(activation_, y, n);
    if (y != buffers[kOperands]) return;
    for (std::int64_t i = 0; i < n; ++i) to[i * stride] = static_cast<T>(y[i]);
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
