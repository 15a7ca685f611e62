// A program as Python sees it.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "binding/arguments.h"
#include "program/program.h"
#include "simd/bfloat16.h"

namespace masktools {

// A program, and what Python gave it and must not take away.
class PythonProgram {
 public:
  // `dtype` of the arena: float32 or bfloat16.
  PythonProgram(std::int64_t arena_elements, int threads, const std::string& dtype);

  Kept* kept() { return &kept_; }
  std::int64_t arena_elements() const { return program_.arena_elements(); }

  void poison() { program_.poison(); }

  // Adds what make(T) returns, T being an element of the arena.
  template <class Make>
  void add(std::int64_t step, const Make& make) {
    program_.add(step, bfloat16_ ? make(Bfloat16()) : make(float()));
  }

  // Adds an operation on an arena of floats.
  void add_float(std::int64_t step, std::unique_ptr<const Operation> operation);

  // Adds an operation on an arena of Bfloat16.
  void add_bfloat16(std::int64_t step, std::unique_ptr<const Operation> operation);

  // An input, or an output, of float32; `index` is its place in the lists that `run` is given.
  void copy_in(std::int64_t step, std::int64_t index, const View& view);
  void copy_out(std::int64_t step, const View& view, std::int64_t index);

  // Executes the program on arrays of exactly the shapes that are copied in and out, without
  // Python's lock. `seconds`: None, or an array to whose entries the seconds of each step are
  // added.
  void run(const pybind11::list& inputs, const pybind11::list& outputs,
           const pybind11::object& seconds);

 private:
  using Shapes = std::vector<std::optional<View>>;

  void declare(std::int64_t index, const View& view, const char* what, Shapes* declared);
  double* seconds_of(const pybind11::object& object) const;

  const bool bfloat16_;
  Kept kept_;  // outlives the program
  Program program_;
  Shapes inputs_, outputs_;
};

using PythonClass = pybind11::class_<PythonProgram>;

// Adds a method `name(step, **fields)` that adds an operation by its fields.
template <void (*kAdd)(PythonProgram&, std::int64_t, Fields&)>
void add_method(PythonClass* program, const char* name) {
  program->def(
      name,
      [name](PythonProgram& p, std::int64_t step, const pybind11::kwargs& given) {
        Fields fields(name, given, p.kept());
        kAdd(p, step, fields);
      },
      pybind11::arg("step"));
}

// Add the methods that add operations: layers with weights, and all other steps.
void bind_layers(PythonClass* program);
void bind_steps(PythonClass* program);

}  // namespace masktools
