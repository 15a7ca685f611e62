// The Python module of one variant: runtime.cpu._avx512, _cpu_avx2 or _cpu_portable.
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "binding/python_program.h"
#include "kernels/bfloat16/product.h"
#include "simd/machine.h"
#include "simd/vector.h"

#define STRING_OF(x) #x
#define TEXT(x) STRING_OF(x)

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

}  // namespace

PYBIND11_MODULE(MASKTOOLS_MODULE, module) {
  using masktools::PythonProgram;
  module.doc() = "A variant of the CPU kernels; runtime.cpu.native chooses.";
  module.attr("isa") = TEXT(MASKTOOLS_ISA);
  module.attr("lanes") = masktools::kLanes;

  // Local to the module: the other variants have a class of this name too.
  masktools::PythonClass program(module, "Program", py::module_local(),
                                 "Operations on one arena; see runtime.cpu.backend.");
  program
      .def(py::init<std::int64_t, int, std::string>(), "arena_elements"_a, "threads"_a,
           "dtype"_a = "float32")
      .def("copy_in", &PythonProgram::copy_in)
      .def("copy_out", &PythonProgram::copy_out)
      .def("poison", &PythonProgram::poison)
      .def("run", &PythonProgram::run, "inputs"_a, "outputs"_a, "seconds"_a = py::none());
  masktools::bind_layers(&program);
  masktools::bind_steps(&program);

  module.def("features", &masktools::processor_features, "Return what the processor has, by name.");
  module.def("bfloat16_kernels", &bfloat16_kernels,
             "Return the kernels for products of bfloat16 that can run here, the fastest first.");
  module.def("fma_peak", &masktools::multiply_adds_per_second, "seconds"_a,
             py::call_guard<py::gil_scoped_release>(),
             "Return the multiply-adds a second of this thread, on registers alone.");
}
