// The Python modules of the variants: runtime.cpu._avx512, _avx2 and _portable. They are one
// source, compiled once and linked to the kernels of each.
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "binding/python_program.h"
#include "kernels/bfloat16/product.h"
#include "simd/machine.h"

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

std::vector<std::string> bfloat16_kernels() {
  std::vector<std::string> names;
  for (const masktools::ProductKernel* kernel : masktools::product_kernels()) {
    names.push_back(kernel->name);
  }
  return names;
}

void fill(py::module_& module) {
  using masktools::PythonProgram;
  module.doc() = "A variant of the CPU kernels; runtime.cpu.native chooses.";
  const masktools::Variant variant = masktools::variant();
  module.attr("isa") = variant.isa;
  module.attr("lanes") = variant.lanes;

  // Local to the module: the other variants have a class of this name too.
  masktools::PythonClass program(module, "Program", py::module_local(),
                                 "Operations on one arena; see runtime.cpu.backend.");
  program
      .def(py::init<std::int64_t, int, std::string>(), "arena_elements"_a, "threads"_a,
           "dtype"_a = "float32")
      .def("poison", &PythonProgram::poison)
      .def("run", &PythonProgram::run, "inputs"_a, "outputs"_a, "seconds"_a = py::none());
  masktools::bind_layers(&program);
  masktools::bind_steps(&program);

  masktools::export_numbers(&module);

  module.def("features", &masktools::processor_features, "Return what the processor has, by name.");
  module.def("bfloat16_kernels", &bfloat16_kernels,
             "Return the kernels for products of bfloat16 that can run here, the fastest first.");
  module.def("fma_peak", &masktools::multiply_adds_per_second, "seconds"_a,
             py::call_guard<py::gil_scoped_release>(),
             "Return the multiply-adds a second of this thread, on registers alone.");
}

}  // namespace

// A library is loaded by the function that bears its name; the others lie idle in it.
PYBIND11_MODULE(_portable, module) { fill(module); }
PYBIND11_MODULE(_avx2, module) { fill(module); }
PYBIND11_MODULE(_avx512, module) { fill(module); }
