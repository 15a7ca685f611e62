// What Python passes, as what the operations take. Everything throws TypeError or ValueError, with
// the name of the argument, if it is not of the kind that is expected.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/grouped/layer.h"
#include "program/view.h"

namespace masktools {

// (offset, shape, strides), all in elements.
using ViewTuple = std::tuple<std::int64_t, std::vector<std::int64_t>, std::vector<std::int64_t>>;

// (offset, planes, plane).
using PlanesTuple = std::tuple<std::int64_t, std::int64_t, std::int64_t>;

// (op, alpha, beta), op as in ONNX; an empty one is none.
using ActivationTuple = std::tuple<std::string, float, float>;

// Objects that must live as long as the program that reads them.
using Kept = std::vector<pybind11::object>;

View to_view(const ViewTuple& tuple);
Planes to_planes(const PlanesTuple& tuple);
Activation to_activation(const ActivationTuple& tuple);

// The data of a C-contiguous array of exactly that type, which is kept alive in `kept`.
template <class T>
Array<T> to_array(const pybind11::handle& object, const char* name, Kept* kept);

extern template Array<float> to_array(const pybind11::handle&, const char*, Kept*);
extern template Array<std::uint16_t> to_array(const pybind11::handle&, const char*, Kept*);
extern template Array<std::int32_t> to_array(const pybind11::handle&, const char*, Kept*);
extern template Array<std::int64_t> to_array(const pybind11::handle&, const char*, Kept*);

// The arrays of a layer by the names of its members; planes, activation and sizes are left alone.
Layer to_layer(const pybind11::dict& arrays, Kept* kept);

// An entry of a dict, or `otherwise` where it has none.
template <class T>
T entry(const pybind11::dict& dict, const char* name, T otherwise) {
  return dict.contains(name) ? dict[name].cast<T>() : otherwise;
}

}  // namespace masktools
