#include "binding/python_program.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "steps/movement.h"

namespace masktools {
namespace {

namespace py = pybind11;

constexpr std::int64_t kMostValues = 1 << 16;  // inputs or outputs

template <class T>
py::array contiguous_array(const py::handle& object, const std::string& what, const char* dtype) {
  if (!py::array_t<T, py::array::c_style>::check_(object)) {
    throw py::type_error(what + ": expected a C-contiguous array of " + dtype);
  }
  return py::reinterpret_borrow<py::array>(object);
}

void check_shape(const py::array& array, const View& declared, const std::string& what) {
  if (array.ndim() > kMaxRank) throw py::value_error(what + ": too many axes");
  View given{0, static_cast<int>(array.ndim()), {}, {}};
  std::copy(array.shape(), array.shape() + given.rank, given.shape.begin());
  check_same_shape(given, declared, what.c_str());
}

// The arrays of a list, of the declared shapes.
std::vector<py::array> matched(const py::list& arrays,
                               const std::vector<std::optional<View>>& declared,
                               const std::string& what) {
  if (arrays.size() != declared.size()) {
    throw py::value_error("expected " + std::to_string(declared.size()) + " " + what + "s, got " +
                          std::to_string(arrays.size()));
  }
  std::vector<py::array> made;
  for (std::size_t n = 0; n < declared.size(); ++n) {
    const std::string name = what + " " + std::to_string(n);
    made.push_back(contiguous_array<float>(arrays[n], name, "float32"));
    if (declared[n]) check_shape(made.back(), *declared[n], name);
  }
  return made;
}

}  // namespace

PythonProgram::PythonProgram(std::int64_t arena_elements, int threads, const std::string& dtype)
    : bfloat16_(dtype == "bfloat16"),
      program_(arena_elements, bfloat16_ ? sizeof(Bfloat16) : sizeof(float), threads) {
  if (!bfloat16_ && dtype != "float32") {
    throw py::value_error("expected dtype float32 or bfloat16, got " + dtype);
  }
}

void PythonProgram::add_float(std::int64_t step, std::unique_ptr<const Operation> operation) {
  if (bfloat16_) throw py::value_error("this operation needs an arena of float32");
  program_.add(step, std::move(operation));
}

void PythonProgram::add_bfloat16(std::int64_t step, std::unique_ptr<const Operation> operation) {
  if (!bfloat16_) throw py::value_error("this operation needs an arena of bfloat16");
  program_.add(step, std::move(operation));
}

// Before the operation is added: none may be there whose input is of another shape than declared.
void PythonProgram::declare(std::int64_t index, const View& view, const char* what,
                            Shapes* declared) {
  if (index < 0 || index >= kMostValues) {
    throw py::value_error(std::string(what) + ": impossible index " + std::to_string(index));
  }
  if (index >= static_cast<std::int64_t>(declared->size())) declared->resize(index + 1);
  std::optional<View>& known = (*declared)[index];
  if (known) check_same_shape(*known, view, what);
  known = view;
}

void PythonProgram::copy_in(std::int64_t step, std::int64_t index, const View& view) {
  declare(index, view, "input", &inputs_);
  add(step, [&](auto t) { return make_copy_in<decltype(t)>(index, view, arena_elements()); });
}

void PythonProgram::copy_out(std::int64_t step, const View& view, std::int64_t index) {
  declare(index, view, "output", &outputs_);
  add(step, [&](auto t) { return make_copy_out<decltype(t)>(view, index, arena_elements()); });
}

namespace {

// Lets Ctrl-C end a long call. Only the main thread is told of signals.
void raise_on_signal() {
  const py::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

}  // namespace

void PythonProgram::run(const py::list& inputs, const py::list& outputs,
                        const py::object& seconds) {
  const std::vector<py::array> from = matched(inputs, inputs_, "input");
  std::vector<py::array> to = matched(outputs, outputs_, "output");
  std::vector<const float*> in;
  std::vector<float*> out;
  for (const py::array& array : from) in.push_back(static_cast<const float*>(array.data()));
  for (py::array& array : to) out.push_back(static_cast<float*>(array.mutable_data()));
  double* const clock = seconds.is_none() ? nullptr : seconds_of(seconds);
  std::unique_ptr<Context> context = program_.acquire();
  std::exception_ptr error;
  {
    const py::gil_scoped_release release;
    try {
      program_.run(*context, in.data(), out.data(), clock, raise_on_signal);
    } catch (...) {
      error = std::current_exception();
    }
  }
  program_.release(std::move(context));
  if (error) std::rethrow_exception(error);
}

double* PythonProgram::seconds_of(const py::object& object) const {
  py::array array = contiguous_array<double>(object, "seconds", "float64");
  if (array.size() < program_.steps()) {
    throw py::value_error("seconds: expected a number for each of " +
                          std::to_string(program_.steps()) + " steps");
  }
  return static_cast<double*>(array.mutable_data());
}

}  // namespace masktools
