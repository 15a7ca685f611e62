#include "binding/arguments.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <type_traits>
#include <utility>

namespace masktools {
namespace {

namespace py = pybind11;

constexpr std::int64_t kRunMembers = 8;  // of int64 each
static_assert(sizeof(Run) == kRunMembers * sizeof(std::int64_t), "rows of an array are runs");

}  // namespace

View to_view(const ViewTuple& tuple) {
  const auto& [offset, shape, strides] = tuple;
  if (shape.size() != strides.size()) throw py::value_error("view: shape and strides differ");
  if (shape.size() > kMaxRank) {
    throw py::value_error("view: at most " + std::to_string(kMaxRank) + " axes");
  }
  View view{offset, static_cast<int>(shape.size()), {}, {}};
  std::copy(shape.begin(), shape.end(), view.shape.begin());
  std::copy(strides.begin(), strides.end(), view.strides.begin());
  return view;
}

Planes to_planes(const PlanesTuple& tuple) {
  return {std::get<0>(tuple), std::get<1>(tuple), std::get<2>(tuple)};
}

Activation to_activation(const ActivationTuple& tuple) {
  using Op = Activation::Op;
  constexpr std::pair<const char*, Op> kNames[] = {
      {"", Op::kNone},
      {"Relu", Op::kRelu},
      {"Clip", Op::kClip},
      {"LeakyRelu", Op::kLeakyRelu},
      {"Sigmoid", Op::kSigmoid},
      {"HardSigmoid", Op::kHardSigmoid},
      {"HardSwish", Op::kHardSwish},
      {"Softplus", Op::kSoftplus},
  };
  const auto& [name, alpha, beta] = tuple;
  for (const auto& [known, op] : kNames) {
    if (name == known) return {op, alpha, beta};
  }
  throw py::value_error("there is no activation '" + name + "'");
}

template <class T>
Array<T> to_array(const py::handle& object, const char* name, Kept* kept) {
  // Nothing is converted: a copy of the weights would cost as much memory again.
  if (!py::array_t<T, py::array::c_style>::check_(object)) {
    throw py::type_error(std::string(name) + ": expected a C-contiguous array of " +
                         std::string(py::str(py::dtype::of<T>())));
  }
  auto array = py::reinterpret_borrow<py::array>(object);
  kept->push_back(array);
  return {static_cast<const T*>(array.data()), static_cast<std::int64_t>(array.size())};
}

template Array<float> to_array(const py::handle&, const char*, Kept*);
template Array<std::uint16_t> to_array(const py::handle&, const char*, Kept*);
template Array<std::int32_t> to_array(const py::handle&, const char*, Kept*);
template Array<std::int64_t> to_array(const py::handle&, const char*, Kept*);

Layer to_layer(const py::dict& arrays, Kept* kept) {
  const auto get = [&](const char* name, auto* member) {
    if (!arrays.contains(name)) throw py::type_error(std::string("a layer needs ") + name);
    using Member = std::remove_pointer_t<decltype(member)>;
    using T = std::remove_const_t<std::remove_pointer_t<decltype(Member::data)>>;
    *member = to_array<T>(arrays[name], name, kept);
  };
  Layer layer;
  get("rows", &layer.rows);
  get("row_starts", &layer.row_starts);
  get("offsets", &layer.offsets);
  get("offset_starts", &layer.offset_starts);
  get("tap_starts", &layer.tap_starts);
  get("weights", &layer.weights);
  get("weight_starts", &layer.weight_starts);
  get("flags", &layer.flags);
  get("bias", &layer.bias);
  get("tap_sets", &layer.tap_sets);
  get("tap_set_starts", &layer.tap_set_starts);
  get("masks", &layer.masks);
  get("chunk_starts", &layer.chunk_starts);
  get("part_starts", &layer.part_starts);
  get("panel_starts", &layer.panel_starts);
  Array<std::int64_t> runs;
  get("runs", &runs);
  if (runs.size % kRunMembers != 0) throw py::value_error("runs: expected rows of 8 numbers");
  layer.runs = {reinterpret_cast<const Run*>(runs.data), runs.size / kRunMembers};
  return layer;
}

}  // namespace masktools
