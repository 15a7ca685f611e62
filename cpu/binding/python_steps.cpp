// All steps without weights, as methods of a program.
#include <pybind11/stl.h>

#include "binding/python_program.h"
#include "steps/elementwise.h"
#include "steps/gather.h"
#include "steps/movement.h"
#include "steps/pool.h"
#include "steps/reduction.h"

namespace masktools {
namespace {

namespace py = pybind11;

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

void copy(PythonProgram& p, std::int64_t step, const ViewTuple& x, const ViewTuple& y) {
  p.add(step,
        [&](auto t) { return make_copy<decltype(t)>(to_view(x), to_view(y), p.arena_elements()); });
}

void fill(PythonProgram& p, std::int64_t step, const ViewTuple& y, float value) {
  p.add(step,
        [&](auto t) { return make_fill<decltype(t)>(to_view(y), value, p.arena_elements()); });
}

void mean(PythonProgram& p, std::int64_t step, const ViewTuple& x, const ViewTuple& y) {
  p.add(step,
        [&](auto t) { return make_mean<decltype(t)>(to_view(x), to_view(y), p.arena_elements()); });
}

void softmax(PythonProgram& p, std::int64_t step, const ViewTuple& x, const ViewTuple& y,
             int axis) {
  p.add(step, [&](auto t) {
    return make_softmax<decltype(t)>(to_view(x), to_view(y), axis, p.arena_elements());
  });
}

}  // namespace

void bind_steps(PythonClass* program) {
  program->def("elementwise", &elementwise)
      .def("scale_shift", &scale_shift)
      .def("pool", &pool)
      .def("mean", &mean)
      .def("softmax", &softmax)
      .def("copy", &copy)
      .def("fill", &fill)
      .def("gather", &gather);
}

}  // namespace masktools
