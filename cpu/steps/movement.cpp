#include "steps/movement.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "simd/bfloat16.h"

namespace masktools {
namespace {

// Where the base of a view is found in a call.
struct Arena {
  template <class T>
  T* base(const Buffers& buffers) const {
    return reinterpret_cast<T*>(buffers.arena);
  }
};

struct Input {
  std::int64_t index;

  template <class T>
  const T* base(const Buffers& buffers) const {
    return buffers.inputs[index];
  }
};

struct Output {
  std::int64_t index;

  template <class T>
  T* base(const Buffers& buffers) const {
    return buffers.outputs[index];
  }
};

template <class From, class To>
void copy_row(const From* x, std::int64_t x_stride, To* y, std::int64_t y_stride, std::int64_t n) {
  if (x_stride == 1 && y_stride == 1) {
    if constexpr (std::is_same_v<From, To>) {
      std::memmove(y, x, n * sizeof(To));
    } else {
      for (std::int64_t i = 0; i < n; ++i) y[i] = static_cast<To>(x[i]);
    }
  } else {
    for (std::int64_t i = 0; i < n; ++i) y[i * y_stride] = static_cast<To>(x[i * x_stride]);
  }
}

constexpr std::int64_t kTile = 16;  // floats of a cache line

// y[j * y_stride + i] = x[i * x_stride + j] for i < rows, j < columns. A tile at a time, each of
// its cache lines read once and whole: rows that are a power of two apart share few places in a
// cache.
template <class From, class To>
void transpose(const From* x, std::int64_t x_stride, To* y, std::int64_t y_stride,
               std::int64_t rows, std::int64_t columns) {
  To tile[kTile][kTile];
  for (std::int64_t i0 = 0; i0 < rows; i0 += kTile) {
    const std::int64_t height = std::min(kTile, rows - i0);
    for (std::int64_t j0 = 0; j0 < columns; j0 += kTile) {
      const std::int64_t width = std::min(kTile, columns - j0);
      for (std::int64_t i = 0; i < height; ++i) {
        const From* row = x + (i0 + i) * x_stride + j0;
        for (std::int64_t j = 0; j < width; ++j) tile[j][i] = static_cast<To>(row[j]);
      }
      for (std::int64_t j = 0; j < width; ++j) {
        std::memcpy(y + (j0 + j) * y_stride + i0, tile[j], height * sizeof(To));
      }
    }
  }
}

// y = x. Where the innermost axis of y has its neighbours elsewhere in x, and another axis has them
// side by side, the two are transposed tile by tile.
template <class From, class To, class Source, class Target>
class Copy final : public Operation {
 public:
  Copy(Source source, const View& x, Target target, const View& y)
      : source_(source), target_(target), nest_({y, x}) {
    const int across = transposed_axis();
    if (across >= 0) {
      // The axis that is contiguous in x goes last, that of y before it.
      nest_.make_innermost(across);
      transposed_ = true;
      cut_ = Cut(nest_.outer() / nest_.shape[nest_.rank - 2],
                 nest_.inner() * nest_.shape[nest_.rank - 2], kTile * nest_.shape[nest_.rank - 2]);
    } else {
      cut_ = Cut(nest_.outer(), nest_.inner(), kTile);
    }
  }

  std::int64_t items() const override { return cut_.items(); }

  void execute(std::int64_t item, const Buffers& buffers, std::byte*) const override {
    const From* x = source_.template base<const From>(buffers);
    To* y = target_.template base<To>(buffers);
    cut_.for_each(
        item, [&](std::int64_t first, std::int64_t last, std::int64_t begin, std::int64_t end) {
          if (transposed_) {
            transpose_rows(x, y, first, last, begin, end);
          } else {
            const std::int64_t x_stride = nest_.inner_stride(1), y_stride = nest_.inner_stride(0);
            for_each_row<1>(nest_, first, last, [&](const std::array<std::int64_t, 2>& at) {
              copy_row(x + at[1] + begin * x_stride, x_stride, y + at[0] + begin * y_stride,
                       y_stride, end - begin);
            });
          }
        });
  }

 private:
  int transposed_axis() const {
    if (nest_.inner_stride(0) != 1 || nest_.inner_stride(1) == 1 || nest_.inner() < 2) return -1;
    for (int axis = 0; axis + 1 < nest_.rank; ++axis) {
      if (nest_.strides[1][axis] == 1 && nest_.shape[axis] > 1) return axis;
    }
    return -1;
  }

  // Elements are counted along y's axis first: begin and end are whole columns of x.
  void transpose_rows(const From* x, To* y, std::int64_t first, std::int64_t last,
                      std::int64_t begin, std::int64_t end) const {
    const int axis = nest_.rank - 2;
    const std::int64_t rows = nest_.shape[axis];
    const std::int64_t x_stride = nest_.strides[1][axis], y_stride = nest_.inner_stride(0);
    for_each_row<2>(nest_, first, last, [&](const std::array<std::int64_t, 2>& at) {
      transpose(x + at[1] + begin / rows, x_stride, y + at[0] + begin / rows * y_stride, y_stride,
                rows, (end - begin) / rows);
    });
  }

  const Source source_;
  const Target target_;
  Nest<2> nest_;
  bool transposed_ = false;
  Cut cut_;
};

template <class T>
class Fill final : public Operation {
 public:
  Fill(const View& y, float value)
      : nest_({y}), value_(static_cast<T>(value)), cut_(nest_.outer(), nest_.inner(), kTile) {}

  std::int64_t items() const override { return cut_.items(); }

  void execute(std::int64_t item, const Buffers& buffers, std::byte*) const override {
    T* y = Arena().base<T>(buffers);
    const std::int64_t stride = nest_.inner_stride(0);
    cut_.for_each(item,
                  [&](std::int64_t first, std::int64_t last, std::int64_t begin, std::int64_t end) {
                    for_each_row<1>(nest_, first, last, [&](const std::array<std::int64_t, 1>& at) {
                      T* row = y + at[0];
                      if (stride == 1) {
                        std::fill(row + begin, row + end, value_);
                      } else {
                        for (std::int64_t i = begin; i < end; ++i) row[i * stride] = value_;
                      }
                    });
                  });
  }

 private:
  const Nest<1> nest_;
  const T value_;
  const Cut cut_;
};

}  // namespace

template <class T>
std::unique_ptr<const Operation> make_copy(const View& x, const View& y,
                                           std::int64_t arena_elements) {
  check_readable(x, arena_elements, "copy: x");
  check_writable(y, arena_elements, "copy: y");
  check_same_shape(x, y, "copy");
  return std::make_unique<Copy<T, T, Arena, Arena>>(Arena(), x, Arena(), y);
}

template <class T>
std::unique_ptr<const Operation> make_copy_in(std::int64_t input, const View& y,
                                              std::int64_t arena_elements) {
  check_writable(y, arena_elements, "copy_in: y");
  return std::make_unique<Copy<float, T, Input, Arena>>(Input{input}, contiguous(y.rank, y.shape),
                                                        Arena(), y);
}

template <class T>
std::unique_ptr<const Operation> make_copy_out(const View& x, std::int64_t output,
                                               std::int64_t arena_elements) {
  check_readable(x, arena_elements, "copy_out: x");
  return std::make_unique<Copy<T, float, Arena, Output>>(Arena(), x, Output{output},
                                                         contiguous(x.rank, x.shape));
}

template <class T>
std::unique_ptr<const Operation> make_fill(const View& y, float value,
                                           std::int64_t arena_elements) {
  check_writable(y, arena_elements, "fill: y");
  return std::make_unique<Fill<T>>(y, value);
}

#define INSTANTIATE(T)                                                                            \
  template std::unique_ptr<const Operation> make_copy<T>(const View&, const View&, std::int64_t); \
  template std::unique_ptr<const Operation> make_copy_in<T>(std::int64_t, const View&,            \
                                                            std::int64_t);                        \
  template std::unique_ptr<const Operation> make_copy_out<T>(const View&, std::int64_t,           \
                                                             std::int64_t);                       \
  template std::unique_ptr<const Operation> make_fill<T>(const View&, float, std::int64_t);
INSTANTIATE(float)
INSTANTIATE(Bfloat16)
#undef INSTANTIATE

}  // namespace masktools
