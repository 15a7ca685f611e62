// A convolution by rows of random nonzeros, and the same by its definition.
#pragma once

#include <cstdint>
#include <vector>

#include "arena.h"
#include "check.h"
#include "kernels/nonzeros/rows.h"

namespace masktools {

template <class T>
Array<T> array(const std::vector<T>& v) {
  return {v.data(), static_cast<std::int64_t>(v.size())};
}

// What is tried; `wanted` has its shape and its cut, the rest is laid out here. Every fifth row has
// no nonzeros, the others have such a share of their columns.
struct RowsCase {
  RowsCase(const RowsLayer& wanted, std::int64_t channels, std::int64_t rows, double share,
           bool skip, std::uint32_t seed);

  void lay_out(std::int64_t channels, std::int64_t rows, bool skip, Random* random);
  void fill(const Planes& planes, const ImageShape& image, Random* random);
  void choose_nonzeros(double share, Random* random);
  double sum(std::int64_t row, std::int64_t y, std::int64_t x, std::int64_t n) const;
  double output(std::int64_t row, std::int64_t y, std::int64_t x, std::int64_t n) const;
  Expected expected() const;
  void check() const { expected().compare(executed(Rows(layer), arena), 1e-5); }

  RowsLayer layer;
  std::vector<float> arena, filters, weights, bias;  // filters: [row][channel][tap]
  std::vector<std::uint16_t> columns;
  std::vector<std::int32_t> starts;
};

// A convolution of 3x3 that keeps the size; tiles of one pixel.
RowsLayer same_size(std::int64_t batch, std::int64_t height, std::int64_t width);

}  // namespace masktools
