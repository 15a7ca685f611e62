#include "binding/arguments.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "kernels/bfloat16/product.h"
#include "kernels/winograd.h"

namespace masktools {

namespace py = pybind11;

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

namespace {

template <class T>
py::dtype type_of() {
  return py::dtype::of<T>();
}

// Made anew in each module: pybind11 would let only one of the variants register it.
template <>
py::dtype type_of<Run>() {
  py::list names, formats, offsets;
  const auto add = [&](const char* name, std::size_t offset) {
    names.append(name);
    formats.append(py::dtype::of<std::int64_t>());
    offsets.append(offset);
  };
  add("input", offsetof(Run, input));
  add("output", offsetof(Run, output));
  add("lanes", offsetof(Run, lanes));
  add("tap_set", offsetof(Run, tap_set));
  add("mask", offsetof(Run, mask));
  add("combine", offsetof(Run, combine));
  add("input_step", offsetof(Run, input_step));
  add("output_step", offsetof(Run, output_step));
  static_assert(sizeof(Run) == 8 * sizeof(std::int64_t), "every member has a field");
  return py::dtype(names, formats, offsets, sizeof(Run));
}

}  // namespace

template <class T>
Array<T> to_array(const py::handle& object, const std::string& name, Kept* kept) {
  // Nothing is converted: a copy of the weights would cost as much memory again.
  const py::dtype type = type_of<T>();
  if (!py::isinstance<py::array>(object) ||
      !py::reinterpret_borrow<py::array>(object).dtype().equal(type) ||
      !(py::reinterpret_borrow<py::array>(object).flags() & py::array::c_style)) {
    throw py::type_error(name + ": expected a C-contiguous array of " + std::string(py::str(type)));
  }
  auto array = py::reinterpret_borrow<py::array>(object);
  kept->push_back(array);
  return {static_cast<const T*>(array.data()), static_cast<std::int64_t>(array.size())};
}

template Array<float> to_array(const py::handle&, const std::string&, Kept*);
template Array<std::uint16_t> to_array(const py::handle&, const std::string&, Kept*);
template Array<std::int32_t> to_array(const py::handle&, const std::string&, Kept*);
template Array<std::int64_t> to_array(const py::handle&, const std::string&, Kept*);
template Array<Run> to_array(const py::handle&, const std::string&, Kept*);

View ImageArgument::as_view() const {
  View view{offset, 4, {}, {}};
  const std::int64_t shape[] = {lanes, planes, height, width}, strides[] = {1, plane, row, pixel};
  std::copy(std::begin(shape), std::end(shape), view.shape.begin());
  std::copy(std::begin(strides), std::end(strides), view.strides.begin());
  return view;
}

Fields::Fields(const std::string& of, const py::handle& given, Kept* kept) : of_(of), kept_(kept) {
  if (!py::isinstance<py::dict>(given)) throw py::type_error(of + ": expected a dict of fields");
  given_ = py::reinterpret_borrow<py::dict>(given);
}

py::object Fields::object(const char* name) {
  if (!given_.contains(name)) throw py::type_error(of_ + " needs " + name);
  taken_.push_back(name);
  return given_[name];
}

ImageArgument Fields::image(const char* name) {
  Fields fields(of_ + ": " + name, object(name), kept_);
  ImageArgument image;
  image.offset = fields.get<std::int64_t>("offset");
  image.planes = fields.get<std::int64_t>("planes");
  image.plane = fields.get<std::int64_t>("plane");
  image.height = fields.get<std::int64_t>("height");
  image.width = fields.get<std::int64_t>("width");
  image.row = fields.get<std::int64_t>("row");
  image.pixel = fields.get<std::int64_t>("pixel");
  image.lanes = fields.get<std::int64_t>("lanes");
  image.halo = fields.get<std::int64_t>("halo");
  fields.done();
  return image;
}

std::optional<ImageArgument> Fields::image_or_none(const char* name) {
  if (given_.contains(name) && given_[name].is_none()) {
    taken_.push_back(name);
    return std::nullopt;
  }
  return image(name);
}

WindowArgument Fields::window(const char* name) {
  using Pair = std::array<std::int64_t, 2>;
  Fields fields(of_ + ": " + name, object(name), kept_);
  const WindowArgument window{fields.get<Pair>("kernel"), fields.get<Pair>("strides"),
                              fields.get<Pair>("dilations"), fields.get<Pair>("pads")};
  fields.done();
  return window;
}

Activation Fields::activation(const char* name) {
  using Op = Activation::Op;
  const py::object given = object(name);
  if (given.is_none()) return {};
  Fields fields(of_ + ": " + name, given, kept_);
  const Names<Op> kNames = {
      {"Relu", Op::kRelu},
      {"Clip", Op::kClip},
      {"LeakyRelu", Op::kLeakyRelu},
      {"Sigmoid", Op::kSigmoid},
      {"HardSigmoid", Op::kHardSigmoid},
      {"HardSwish", Op::kHardSwish},
      {"Softplus", Op::kSoftplus},
      {"Elu", Op::kElu},
      {"Tanh", Op::kTanh},
      {"Erf", Op::kErf},
      {"Gelu", Op::kGelu},
      {"Swish", Op::kSwish},
      {"Mish", Op::kMish},
      {"Exp", Op::kExp},
      {"Log", Op::kLog},
      {"Sqrt", Op::kSqrt},
      {"ThresholdedRelu", Op::kThresholdedRelu},
      {"Sin", Op::kSin},
      {"Cos", Op::kCos},
      {"Floor", Op::kFloor},
      {"Ceil", Op::kCeil},
      {"Round", Op::kRound},
      {"Sign", Op::kSign},
  };
  const Op op = fields.choice("op", kNames);
  const Activation activation{op, fields.get<float>("alpha"), fields.get<float>("beta")};
  fields.done();
  return activation;
}

void Fields::done() const {
  for (const auto& [key, value] : given_) {
    const std::string name = py::str(key);
    if (std::find(taken_.begin(), taken_.end(), name) == taken_.end()) {
      throw py::type_error(of_ + " takes no " + name);
    }
  }
}

py::type_error Fields::wrong_type(const char* name, const py::handle& given) const {
  const std::string type = py::str(py::type::handle_of(given).attr("__name__"));
  return py::type_error(of_ + ": " + name + ": a " + type + " is not what is expected");
}

Layer to_layer(Fields* fields) {
  Layer layer;
  layer.rows = fields->array<std::int32_t>("rows");
  layer.row_starts = fields->array<std::int64_t>("row_starts");
  layer.offsets = fields->array<std::int32_t>("offsets");
  layer.offset_starts = fields->array<std::int64_t>("offset_starts");
  layer.tap_starts = fields->array<std::int32_t>("tap_starts");
  layer.weight_starts = fields->array<std::int64_t>("weight_starts");
  layer.flags = fields->array<std::int32_t>("flags");
  layer.bias = fields->array<float>("bias");
  layer.runs = fields->array<Run>("runs");
  layer.tap_sets = fields->array<std::int32_t>("tap_sets");
  layer.tap_set_starts = fields->array<std::int64_t>("tap_set_starts");
  layer.masks = fields->array<std::int32_t>("masks");
  layer.chunk_starts = fields->array<std::int64_t>("chunk_starts");
  layer.part_starts = fields->array<std::int64_t>("part_starts");
  layer.panel_starts = fields->array<std::int64_t>("panel_starts");
  layer.activation = fields->activation("activation");
  layer.scale = fields->get<float>("scale");
  layer.tile_vectors = fields->get<std::int64_t>("tile_vectors");
  layer.prefetch = fields->get<std::int64_t>("prefetch");
  layer.parts_first = fields->get<bool>("parts_first");
  return layer;
}

void export_numbers(py::module_* module) {
  module->attr("run") = type_of<Run>();
  py::dict enums, sizes;
  py::dict combine, flags;
  combine["store"] = static_cast<std::int64_t>(Combine::kStore);
  combine["max"] = static_cast<std::int64_t>(Combine::kMax);
  combine["add"] = static_cast<std::int64_t>(Combine::kAdd);
  flags["first"] = static_cast<std::int64_t>(kFirst);
  flags["last"] = static_cast<std::int64_t>(kLast);
  enums["combine"] = combine;
  enums["flags"] = flags;
  module->attr("enums") = enums;
  sizes["group_rows"] = kMaxRows;
  sizes["offset_padding"] = kOffsetPadding;
  sizes["slack"] = kSlack;
  sizes["winograd_rows"] = kWinogradRows;
  sizes["winograd_positions"] = std::int64_t{kPositions};
  sizes["tile_rows"] = std::int64_t{kTileRows};
  sizes["tile_columns"] = std::int64_t{kTileColumns};
  module->attr("sizes") = sizes;
}

}  // namespace masktools
