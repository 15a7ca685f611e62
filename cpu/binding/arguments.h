// What Python passes, as what the operations take: fields by name. Everything throws TypeError or
// ValueError, with the names of the operation and of the field, if it is not what is expected.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/grouped/layer.h"
#include "program/view.h"

namespace masktools {

// (offset, shape, strides), all in elements.
using ViewTuple = std::tuple<std::int64_t, std::vector<std::int64_t>, std::vector<std::int64_t>>;

// Objects that must live as long as the program that reads them.
using Kept = std::vector<pybind11::object>;

View to_view(const ViewTuple& tuple);

// The data of a C-contiguous array of exactly that type, which is kept alive in `kept`.
template <class T>
Array<T> to_array(const pybind11::handle& object, const std::string& name, Kept* kept);

// A value as images in the arena: lane n of pixel (y, x) of plane c is element
// offset + c * plane + y * row + x * pixel + n; beside each row lie `halo` pixels of zeros.
struct ImageArgument {
  std::int64_t offset = 0, planes = 0, plane = 0;
  std::int64_t height = 0, width = 0, row = 0, pixel = 0;
  std::int64_t lanes = 0, halo = 0;

  Planes as_planes() const { return {offset, planes, plane}; }
  View as_view() const;  // (lanes, planes, height, width)
};

// The taps of a window, each along y and x; pads before the first row and the first pixel.
struct WindowArgument {
  std::array<std::int64_t, 2> kernel, strides, dilations, pads;
};

// The values of an enumeration, by the names that Python has for them.
template <class E>
using Names = std::vector<std::pair<const char*, E>>;

// The fields of an operation, or of a part of one. Each is taken once; `done` throws TypeError if
// there are others.
class Fields {
 public:
  // `of` is what messages name; `given` must be a dict.
  Fields(const std::string& of, const pybind11::handle& given, Kept* kept);

  // A field as it is. Throws TypeError if it is missing.
  pybind11::object object(const char* name);

  template <class T>
  T get(const char* name) {
    const pybind11::object given = object(name);
    try {
      return given.cast<T>();
    } catch (const pybind11::cast_error&) {
      throw wrong_type(name, given);
    } catch (const pybind11::error_already_set&) {  // of a list, what is no sequence
      throw wrong_type(name, given);
    }
  }

  template <class T>
  Array<T> array(const char* name) {
    return to_array<T>(object(name), of_ + ": " + name, kept_);
  }

  // The value of that name.
  template <class E>
  E choice(const char* name, const Names<E>& names) {
    const std::string given = get<std::string>(name);
    for (const auto& [known, value] : names) {
      if (given == known) return value;
    }
    throw pybind11::value_error(of_ + ": " + name + ": there is no '" + given + "'");
  }

  View view(const char* name) { return to_view(get<ViewTuple>(name)); }
  ImageArgument image(const char* name);
  std::optional<ImageArgument> image_or_none(const char* name);
  WindowArgument window(const char* name);
  Activation activation(const char* name);  // None is none

  void done() const;

  const std::string& of() const { return of_; }

 private:
  pybind11::type_error wrong_type(const char* name, const pybind11::handle& given) const;

  const std::string of_;
  pybind11::dict given_;
  std::vector<std::string> taken_;
  Kept* kept_;
};

// The arrays of a layer by the names of its members, and how its work is cut; planes are left
// alone.
Layer to_layer(Fields* fields);

// What Python needs to know of the kernels and must not write down again: `run`, the dtype of a
// run; `enums`, numbers by name, of those that stand in arrays; `sizes`, by name.
void export_numbers(pybind11::module_* module);

}  // namespace masktools
