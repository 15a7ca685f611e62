// The Python module of one variant: runtime._cpu_avx512, _cpu_avx2 or _cpu_portable.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arguments.h"
#include "bfloat16.h"
#include "bfloat16_convolution.h"
#include "bfloat16_product.h"
#include "convolution.h"
#include "elementwise.h"
#include "machine.h"
#include "movement.h"
#include "narrow.h"
#include "pool.h"
#include "program.h"
#include "reduction.h"
#include "unfold.h"
#include "vector.h"
#include "winograd.h"

#define STRING_OF(x) #x
#define TEXT(x) STRING_OF(x)

namespace masktools {
namespace {

namespace py = pybind11;
using namespace pybind11::literals;

// A program, and what Python gave it and must not take away.
class PythonProgram {
 public:
  PythonProgram(std::int64_t arena_elements, int threads, const std::string& dtype)
      : bfloat16_(dtype == "bfloat16"),
        program_(arena_elements, bfloat16_ ? sizeof(Bfloat16) : sizeof(float), threads) {
    if (!bfloat16_ && dtype != "float32") {
      throw py::value_error("expected dtype float32 or bfloat16, got " + dtype);
    }
  }

  Kept* kept() { return &kept_; }
  std::int64_t arena_elements() const { return program_.arena_elements(); }

  // Adds what make(T) returns, T being an element of the arena.
  template <class Make>
  void add(std::int64_t step, const Make& make) {
    program_.add(step, bfloat16_ ? make(Bfloat16()) : make(float()));
  }

  // Adds an operation on an arena of floats.
  void add_float(std::int64_t step, std::unique_ptr<const Operation> operation) {
    if (bfloat16_) throw py::value_error("this operation needs an arena of float32");
    program_.add(step, std::move(operation));
  }

  // Adds an operation on an arena of Bfloat16.
  void add_bfloat16(std::int64_t step, std::unique_ptr<const Operation> operation) {
    if (!bfloat16_) throw py::value_error("this operation needs an arena of bfloat16");
    program_.add(step, std::move(operation));
  }

  // Inputs and outputs are checked against the shapes that were copied in and out.
  void declare(std::int64_t index, const View& view, const char* what,
               std::vector<std::optional<View>>* declared) {
    if (index < 0 || index > kMostValues) throw py::value_error(std::string(what) + ": index");
    if (index >= static_cast<std::int64_t>(declared->size())) declared->resize(index + 1);
    std::optional<View>& known = (*declared)[index];
    if (known) check_same_shape(*known, view, what);
    known = view;
  }

  void copy_in(std::int64_t step, std::int64_t index, const ViewTuple& y) {
    const View view = to_view(y);
    declare(index, view, "input", &inputs_);
    add(step, [&](auto t) { return make_copy_in<decltype(t)>(index, view, arena_elements()); });
  }

  void copy_out(std::int64_t step, const ViewTuple& x, std::int64_t index) {
    const View view = to_view(x);
    declare(index, view, "output", &outputs_);
    add(step, [&](auto t) { return make_copy_out<decltype(t)>(view, index, arena_elements()); });
  }

  void run(const py::list& inputs, const py::list& outputs, const py::object& seconds) {
    std::vector<const float*> from;
    std::vector<float*> to;
    match(inputs, inputs_, "input",
          [&](py::array& a) { from.push_back(static_cast<const float*>(a.data())); });
    match(outputs, outputs_, "output", [&](py::array& a) {
      to.push_back(static_cast<float*>(a.mutable_data()));  // throws where it is read-only
    });
    double* const clock = seconds.is_none() ? nullptr : seconds_of(seconds);
    std::unique_ptr<Context> context = program_.acquire();
    std::exception_ptr error;
    {
      const py::gil_scoped_release release;
      try {
        program_.run(*context, from.data(), to.data(), clock);
      } catch (...) {
        error = std::current_exception();
      }
    }
    program_.release(std::move(context));
    if (error) std::rethrow_exception(error);
  }

 private:
  static constexpr std::int64_t kMostValues = 1 << 16;

  template <class Use>
  static void match(const py::list& arrays, const std::vector<std::optional<View>>& declared,
                    const char* what, const Use& use) {
    if (arrays.size() != declared.size()) {
      throw py::value_error("expected " + std::to_string(declared.size()) + " " + what + "s, got " +
                            std::to_string(arrays.size()));
    }
    for (std::size_t n = 0; n < declared.size(); ++n) {
      const std::string name = std::string(what) + " " + std::to_string(n);
      if (!py::array_t<float, py::array::c_style>::check_(arrays[n])) {
        throw py::type_error(name + ": expected a C-contiguous array of float32");
      }
      auto array = py::reinterpret_borrow<py::array>(arrays[n]);
      if (declared[n]) {
        View given{0, static_cast<int>(std::min<py::ssize_t>(array.ndim(), kMaxRank)), {}, {}};
        std::copy(array.shape(), array.shape() + given.rank, given.shape.begin());
        if (array.ndim() > kMaxRank) throw py::value_error(name + ": too many axes");
        check_same_shape(given, *declared[n], name.c_str());
      }
      use(array);
    }
  }

  double* seconds_of(const py::object& object) const {
    if (!py::array_t<double, py::array::c_style>::check_(object)) {
      throw py::type_error("seconds: expected a C-contiguous array of float64");
    }
    auto array = py::reinterpret_borrow<py::array>(object);
    if (array.size() < program_.steps()) {
      throw py::value_error("seconds: expected a number for each of " +
                            std::to_string(program_.steps()) + " steps");
    }
    return static_cast<double*>(array.mutable_data());
  }

  const bool bfloat16_;
  Kept kept_;  // outlives the program
  Program program_;
  std::vector<std::optional<View>> inputs_, outputs_;
};

Layer layer_of(PythonProgram& p, const py::dict& arrays, const PlanesTuple& x, const PlanesTuple& y,
               const std::optional<PlanesTuple>& skip, const ActivationTuple& activation,
               const py::dict& configuration) {
  Layer layer = to_layer(arrays, p.kept());
  layer.x = to_planes(x);
  layer.y = to_planes(y);
  if (skip) layer.skip = to_planes(*skip);
  layer.activation = to_activation(activation);
  layer.scale = entry(configuration, "scale", layer.scale);
  layer.tile_vectors = entry(configuration, "tile_vectors", layer.tile_vectors);
  layer.prefetch = entry(configuration, "prefetch", layer.prefetch);
  layer.parts_first = entry(configuration, "parts_first", layer.parts_first);
  layer.arena_elements = p.arena_elements();
  return layer;
}

template <class Kernel>
void add_layer(PythonProgram& p, std::int64_t step, const py::dict& arrays, const PlanesTuple& x,
               const PlanesTuple& y, const std::optional<PlanesTuple>& skip,
               const ActivationTuple& activation, const py::dict& configuration) {
  p.add_float(step, std::make_unique<KernelOperation<Kernel>>(
                        layer_of(p, arrays, x, y, skip, activation, configuration)));
}

// A dense 3x3 layer. `image` and `output` hold height, width and pitch; the output's halo is last.
void add_winograd(PythonProgram& p, std::int64_t step, const PlanesTuple& x,
                  const std::array<std::int64_t, 3>& image, const PlanesTuple& y,
                  const std::array<std::int64_t, 4>& output, const std::optional<PlanesTuple>& skip,
                  std::int64_t batch, const std::array<std::int64_t, 2>& pads,
                  const py::dict& arrays, const ActivationTuple& activation,
                  const py::dict& configuration) {
  WinogradLayer layer;
  layer.x = to_planes(x);
  layer.y = to_planes(y);
  if (skip) layer.skip = to_planes(*skip);
  layer.height = image[0];
  layer.width = image[1];
  layer.x_pitch = image[2];
  layer.out_height = output[0];
  layer.out_width = output[1];
  layer.y_pitch = output[2];
  layer.halo = output[3];
  layer.pad_top = pads[0];
  layer.pad_left = pads[1];
  layer.batch = batch;
  layer.weights = to_array<float>(arrays["weights"], "weights", p.kept());
  layer.bias = to_array<float>(arrays["bias"], "bias", p.kept());
  layer.activation = to_activation(activation);
  layer.vectors = entry(configuration, "vectors", layer.vectors);
  layer.row_blocks = entry(configuration, "row_blocks", layer.row_blocks);
  layer.parts = entry(configuration, "parts", layer.parts);
  layer.arena_elements = p.arena_elements();
  p.add_float(step, std::make_unique<KernelOperation<Winograd>>(layer));
}

#ifdef __AVX512BW__

// As a layer, with `tiles` (numbers of bfloat16 as uint16) instead of `weights`, which are empty.
void add_bfloat16_layer(PythonProgram& p, std::int64_t step, const py::dict& arrays,
                        const PlanesTuple& x, const PlanesTuple& y,
                        const std::optional<PlanesTuple>& skip, const ActivationTuple& activation,
                        const py::dict& configuration) {
  const Layer layer = layer_of(p, arrays, x, y, skip, activation, configuration);
  const Array<std::uint16_t> bits = to_array<std::uint16_t>(arrays["tiles"], "tiles", p.kept());
  const Array<Bfloat16> tiles = {reinterpret_cast<const Bfloat16*>(bits.data), bits.size};
  const std::string name = entry<std::string>(configuration, "kernel", "");
  for (const ProductKernel* kernel : product_kernels()) {
    if (kernel->name != name) continue;
    p.add_bfloat16(step, std::make_unique<Bfloat16Convolution>(layer, tiles, *kernel));
    return;
  }
  throw py::value_error("there is no kernel '" + name + "' for bfloat16 here");
}

#endif

std::vector<std::string> bfloat16_kernels() {
  std::vector<std::string> names;
  for (const ProductKernel* kernel : product_kernels()) names.push_back(kernel->name);
  return names;
}

// Unfold has no scratch, and works on any element.
template <class T>
class UnfoldOperation final : public Operation {
 public:
  UnfoldOperation(const Unfolding& unfolding, std::int64_t rows, std::int64_t offset,
                  std::int64_t arena_elements)
      : kernel_(unfolding, rows, offset, arena_elements) {}
  std::int64_t items() const override { return kernel_.items(); }
  void execute(std::int64_t item, const Buffers& buffers, std::byte*) const override {
    kernel_.execute(item, reinterpret_cast<T*>(buffers.arena));
  }

 private:
  const Unfold kernel_;
};

void add_unfold(PythonProgram& p, std::int64_t step, const PlanesTuple& x,
                const std::array<std::int64_t, 4>& image, const PlanesTuple& u,
                const py::object& origins, const std::array<std::int64_t, 2>& strides,
                std::int64_t rows, std::int64_t columns) {
  Unfolding unfolding;
  unfolding.x = to_planes(x);
  unfolding.height = image[0];
  unfolding.width = image[1];
  unfolding.pitch = image[2];
  unfolding.batch = image[3];
  unfolding.stride_y = strides[0];
  unfolding.stride_x = strides[1];
  unfolding.origins = to_array<std::int64_t>(origins, "origins", p.kept());
  unfolding.columns = columns;
  const Planes to = to_planes(u);
  unfolding.plane = to.plane;
  if (to.planes != unfolding.x.planes * unfolding.planes()) {
    throw py::value_error("unfold: expected a plane for each channel and origin");
  }
  p.add(step, [&](auto t) -> std::unique_ptr<const Operation> {
    return std::make_unique<UnfoldOperation<decltype(t)>>(unfolding, rows, to.offset,
                                                          p.arena_elements());
  });
}

// An operand: (offset, shape, strides), or a constant of float32. `made` holds constants until the
// operation has copied them.
Operand to_operand(const py::handle& object, Kept* made) {
  if (!py::isinstance<py::array>(object)) return {to_view(object.cast<ViewTuple>()), nullptr};
  const Array<float> constant = to_array<float>(object, "constant", made);
  const auto array = py::reinterpret_borrow<py::array>(object);
  if (array.ndim() > kMaxRank) throw py::value_error("constant: too many axes");
  Index shape{};
  std::copy(array.shape(), array.shape() + array.ndim(), shape.begin());
  return {contiguous(static_cast<int>(array.ndim()), shape), constant.data};
}

void add_elementwise(PythonProgram& p, std::int64_t step, Arithmetic arithmetic,
                     const std::vector<Operand>& operands, const ViewTuple& y,
                     const ActivationTuple& activation) {
  p.add(step, [&](auto t) {
    return make_elementwise<decltype(t)>(arithmetic, operands, to_view(y),
                                         to_activation(activation), p.arena_elements());
  });
}

void elementwise(PythonProgram& p, std::int64_t step, const std::string& op, const py::list& given,
                 const ViewTuple& y, const ActivationTuple& activation) {
  constexpr std::pair<const char*, Arithmetic> kNames[] = {{"Identity", Arithmetic::kIdentity},
                                                           {"Add", Arithmetic::kAdd},
                                                           {"Sub", Arithmetic::kSub},
                                                           {"Mul", Arithmetic::kMul},
                                                           {"Div", Arithmetic::kDiv}};
  Kept made;
  std::vector<Operand> operands;
  for (const py::handle& operand : given) operands.push_back(to_operand(operand, &made));
  for (const auto& [name, arithmetic] : kNames) {
    if (op == name) return add_elementwise(p, step, arithmetic, operands, y, activation);
  }
  throw py::value_error("there is no elementwise operation '" + op + "'");
}

// x * scale + shift along axis 1; either may be None.
void scale_shift(PythonProgram& p, std::int64_t step, const ViewTuple& x, const py::object& scale,
                 const py::object& shift, const ViewTuple& y, const ActivationTuple& activation) {
  Kept made;
  std::vector<Operand> operands = {{to_view(x), nullptr}};
  for (const py::object& given : {scale, shift}) {
    if (given.is_none()) continue;
    const Array<float> values = to_array<float>(given, "scale or shift", &made);
    Index shape;
    shape.fill(1);
    if (operands[0].view.rank < 2) throw py::value_error("scale_shift: x has no axis 1");
    shape[1] = values.size;
    operands.push_back({contiguous(operands[0].view.rank, shape), values.data});
  }
  const Arithmetic arithmetic = operands.size() == 3                 ? Arithmetic::kScaleShift
                                : scale.is_none() && shift.is_none() ? Arithmetic::kIdentity
                                : scale.is_none()                    ? Arithmetic::kAdd
                                                                     : Arithmetic::kMul;
  add_elementwise(p, step, arithmetic, operands, y, activation);
}

void pool(PythonProgram& p, std::int64_t step, const std::string& kind, const ViewTuple& x,
          const ViewTuple& y, const std::array<std::int64_t, 2>& kernel,
          const std::array<std::int64_t, 2>& strides, const std::array<std::int64_t, 2>& dilations,
          const std::array<std::int64_t, 4>& pads, const std::array<std::int64_t, 4>& counted) {
  if (kind != "MaxPool" && kind != "AveragePool") {
    throw py::value_error("there is no pool '" + kind + "'");
  }
  p.add(step, [&](auto t) {
    return make_pool<decltype(t)>(
        kind == "MaxPool" ? PoolKind::kMax : PoolKind::kAverage, to_view(x), to_view(y),
        Window{kernel, strides, dilations, pads, counted}, p.arena_elements());
  });
}

void gather(PythonProgram& p, std::int64_t step, const ViewTuple& x, const ViewTuple& y,
            const std::vector<int>& axes, const py::list& indices, float fill) {
  if (axes.size() != indices.size()) throw py::value_error("gather: axes and indices differ");
  Kept made;
  std::vector<AxisIndices> chosen;
  for (std::size_t n = 0; n < axes.size(); ++n) {
    const Array<std::int32_t> list = to_array<std::int32_t>(indices[n], "indices", &made);
    chosen.push_back({axes[n], {list.data, list.data + list.size}});
  }
  p.add(step, [&](auto t) {
    return make_gather<decltype(t)>(to_view(x), to_view(y), chosen, fill, p.arena_elements());
  });
}

void bind(py::module_& module) {
  // Local to the module: the other variants have a class of this name too.
  py::class_<PythonProgram>(module, "Program", py::module_local(),
                            "Operations on one arena; see runtime.cpu_backend.")
      .def(py::init<std::int64_t, int, std::string>(), "arena_elements"_a, "threads"_a,
           "dtype"_a = "float32")
      .def("copy_in", &PythonProgram::copy_in)
      .def("copy_out", &PythonProgram::copy_out)
      .def("convolution", &add_layer<Convolution>)
      .def("narrow", &add_layer<Narrow>)
      .def("winograd", &add_winograd)
#ifdef __AVX512BW__
      .def("convolution_bfloat16", &add_bfloat16_layer)
#endif
      .def("unfold", &add_unfold)
      .def("elementwise", &elementwise)
      .def("scale_shift", &scale_shift)
      .def("pool", &pool)
      .def("gather", &gather)
      .def("copy",
           [](PythonProgram& p, std::int64_t step, const ViewTuple& x, const ViewTuple& y) {
             p.add(step, [&](auto t) {
               return make_copy<decltype(t)>(to_view(x), to_view(y), p.arena_elements());
             });
           })
      .def("fill",
           [](PythonProgram& p, std::int64_t step, const ViewTuple& y, float value) {
             p.add(step, [&](auto t) {
               return make_fill<decltype(t)>(to_view(y), value, p.arena_elements());
             });
           })
      .def("mean",
           [](PythonProgram& p, std::int64_t step, const ViewTuple& x, const ViewTuple& y) {
             p.add(step, [&](auto t) {
               return make_mean<decltype(t)>(to_view(x), to_view(y), p.arena_elements());
             });
           })
      .def("softmax",
           [](PythonProgram& p, std::int64_t step, const ViewTuple& x, const ViewTuple& y,
              int axis) {
             p.add(step, [&](auto t) {
               return make_softmax<decltype(t)>(to_view(x), to_view(y), axis, p.arena_elements());
             });
           })
      .def("run", &PythonProgram::run, "inputs"_a, "outputs"_a, "seconds"_a = py::none());
  module.attr("isa") = TEXT(MASKTOOLS_ISA);
  module.attr("lanes") = kLanes;
  module.def("features", &processor_features, "Return what the processor has, by name.");
  module.def("bfloat16_kernels", &bfloat16_kernels,
             "Return the kernels for products of bfloat16 that can run here, the fastest first.");
  module.def("fma_peak", &multiply_adds_per_second, "seconds"_a,
             py::call_guard<py::gil_scoped_release>(),
             "Return the multiply-adds a second of this thread, on registers alone.");
}

}  // namespace
}  // namespace masktools

PYBIND11_MODULE(MASKTOOLS_MODULE, module) {
  module.doc() = "A variant of the CPU kernels; runtime.cpu_isa chooses.";
  masktools::bind(module);
}
