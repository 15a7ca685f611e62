// All steps without weights, as methods of a program.
#include <pybind11/stl.h>

#include "binding/python_program.h"
#include "steps/elementwise.h"
#include "steps/gather.h"
#include "steps/interpolation.h"
#include "steps/matmul.h"
#include "steps/movement.h"
#include "steps/pool.h"
#include "steps/reduce.h"
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
                     const std::vector<Operand>& operands, const View& y,
                     const Activation& activation) {
  p.add(step, [&](auto t) {
    return make_elementwise<decltype(t)>(arithmetic, operands, y, activation, p.arena_elements());
  });
}

void elementwise(PythonProgram& p, std::int64_t step, Fields& fields) {
  const auto op = fields.choice<Arithmetic>("op", {{"Identity", Arithmetic::kIdentity},
                                                   {"Add", Arithmetic::kAdd},
                                                   {"Sub", Arithmetic::kSub},
                                                   {"Mul", Arithmetic::kMul},
                                                   {"Div", Arithmetic::kDiv},
                                                   {"Max", Arithmetic::kMax},
                                                   {"Min", Arithmetic::kMin},
                                                   {"PRelu", Arithmetic::kPRelu},
                                                   {"Greater", Arithmetic::kGreater},
                                                   {"GreaterOrEqual", Arithmetic::kGreaterOrEqual},
                                                   {"Equal", Arithmetic::kEqual},
                                                   {"Where", Arithmetic::kWhere}});
  Kept made;
  std::vector<Operand> operands;
  for (const py::handle& operand : fields.get<py::list>("operands")) {
    operands.push_back(to_operand(operand, &made));
  }
  const View y = fields.view("y");
  const Activation activation = fields.activation("activation");
  fields.done();
  add_elementwise(p, step, op, operands, y, activation);
}

// x * scale + shift along axis 1; either may be None.
void scale_shift(PythonProgram& p, std::int64_t step, Fields& fields) {
  Kept made;
  std::vector<Operand> operands = {{fields.view("x"), nullptr}};
  const py::object scale = fields.object("scale"), shift = fields.object("shift");
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
  const View y = fields.view("y");
  const Activation activation = fields.activation("activation");
  fields.done();
  add_elementwise(p, step, arithmetic, operands, y, activation);
}

void pool(PythonProgram& p, std::int64_t step, Fields& fields) {
  const auto kind = fields.choice<PoolKind>(
      "op", {{"MaxPool", PoolKind::kMax}, {"AveragePool", PoolKind::kAverage}});
  const View x = fields.view("x"), y = fields.view("y");
  const WindowArgument w = fields.window("window");
  const auto after = fields.get<std::array<std::int64_t, 2>>("pads_after");
  const auto counted = fields.get<std::array<std::int64_t, 4>>("counted");
  fields.done();
  const Window window{
      w.kernel, w.strides, w.dilations, {w.pads[0], w.pads[1], after[0], after[1]}, counted};
  p.add(step,
        [&](auto t) { return make_pool<decltype(t)>(kind, x, y, window, p.arena_elements()); });
}

void gather(PythonProgram& p, std::int64_t step, Fields& fields) {
  const View x = fields.view("x"), y = fields.view("y");
  const auto axes = fields.get<std::vector<int>>("axes");
  const auto indices = fields.get<py::list>("indices");
  const auto fill = fields.get<float>("fill");
  fields.done();
  if (axes.size() != indices.size()) throw py::value_error("gather: axes and indices differ");
  Kept made;
  std::vector<AxisIndices> chosen;
  for (std::size_t n = 0; n < axes.size(); ++n) {
    const Array<std::int32_t> list = to_array<std::int32_t>(indices[n], "indices", &made);
    chosen.push_back({axes[n], {list.data, list.data + list.size}});
  }
  p.add(step,
        [&](auto t) { return make_gather<decltype(t)>(x, y, chosen, fill, p.arena_elements()); });
}

void interpolate(PythonProgram& p, std::int64_t step, Fields& fields) {
  const View x = fields.view("x"), y = fields.view("y");
  const int axis = fields.get<int>("axis");
  const auto taps = fields.get<std::int64_t>("taps");
  const py::object given = fields.object("indices"), factors = fields.object("weights");
  fields.done();
  Kept made;
  const Array<std::int32_t> indices = to_array<std::int32_t>(given, "indices", &made);
  const Array<float> weights = to_array<float>(factors, "weights", &made);
  const AxisTaps along{axis,
                       taps,
                       {indices.data, indices.data + indices.size},
                       {weights.data, weights.data + weights.size}};
  p.add(step,
        [&](auto t) { return make_interpolation<decltype(t)>(x, y, along, p.arena_elements()); });
}

void copy(PythonProgram& p, std::int64_t step, Fields& fields) {
  const View x = fields.view("x"), y = fields.view("y");
  fields.done();
  p.add(step, [&](auto t) { return make_copy<decltype(t)>(x, y, p.arena_elements()); });
}

void fill(PythonProgram& p, std::int64_t step, Fields& fields) {
  const View y = fields.view("y");
  const auto value = fields.get<float>("value");
  fields.done();
  p.add(step, [&](auto t) { return make_fill<decltype(t)>(y, value, p.arena_elements()); });
}

void mean(PythonProgram& p, std::int64_t step, Fields& fields) {
  const View x = fields.view("x"), y = fields.view("y");
  const auto pixels = fields.get<std::int64_t>("pixels");
  fields.done();
  p.add(step, [&](auto t) { return make_mean<decltype(t)>(x, y, pixels, p.arena_elements()); });
}

void softmax(PythonProgram& p, std::int64_t step, Fields& fields) {
  const View x = fields.view("x"), y = fields.view("y");
  const int axis = fields.get<int>("axis");
  const bool logarithm = fields.get<bool>("logarithm");
  fields.done();
  p.add(step, [&](auto t) {
    return make_softmax<decltype(t)>(x, y, axis, logarithm, p.arena_elements());
  });
}

void reduce(PythonProgram& p, std::int64_t step, Fields& fields) {
  const auto reduction = fields.choice<Reduction>("op", {{"Sum", Reduction::kSum},
                                                         {"Mean", Reduction::kMean},
                                                         {"Max", Reduction::kMax},
                                                         {"Min", Reduction::kMin},
                                                         {"L2", Reduction::kL2}});
  const View x = fields.view("x"), y = fields.view("y");
  fields.done();
  p.add(step,
        [&](auto t) { return make_reduce<decltype(t)>(reduction, x, y, p.arena_elements()); });
}

// Over the axes from `axis` on; scale and shift are empty or have a number for each place there.
void normalize(PythonProgram& p, std::int64_t step, Fields& fields) {
  const View x = fields.view("x"), y = fields.view("y");
  const int axis = fields.get<int>("axis");
  const auto epsilon = fields.get<float>("epsilon");
  const Array<float> scale = fields.array<float>("scale"), shift = fields.array<float>("shift");
  fields.done();
  const auto copied = [](const Array<float>& a) {
    return std::vector<float>(a.data, a.data + a.size);
  };
  p.add(step, [&](auto t) {
    return make_normalize<decltype(t)>(x, y, axis, epsilon, copied(scale), copied(shift),
                                       p.arena_elements());
  });
}

void matmul(PythonProgram& p, std::int64_t step, Fields& fields) {
  const View a = fields.view("a"), b = fields.view("b"), y = fields.view("y");
  fields.done();
  p.add(step, [&](auto t) { return make_matmul<decltype(t)>(a, b, y, p.arena_elements()); });
}

// An input, or an output, of float32; `index` is its place in the lists that `run` is given.
void copy_in(PythonProgram& p, std::int64_t step, Fields& fields) {
  const auto index = fields.get<std::int64_t>("index");
  const View y = fields.view("y");
  fields.done();
  p.copy_in(step, index, y);
}

void copy_out(PythonProgram& p, std::int64_t step, Fields& fields) {
  const View x = fields.view("x");
  const auto index = fields.get<std::int64_t>("index");
  fields.done();
  p.copy_out(step, x, index);
}

}  // namespace

void bind_steps(PythonClass* program) {
  add_method<copy_in>(program, "copy_in");
  add_method<copy_out>(program, "copy_out");
  add_method<elementwise>(program, "elementwise");
  add_method<scale_shift>(program, "scale_shift");
  add_method<pool>(program, "pool");
  add_method<mean>(program, "mean");
  add_method<softmax>(program, "softmax");
  add_method<reduce>(program, "reduce");
  add_method<normalize>(program, "normalize");
  add_method<matmul>(program, "matmul");
  add_method<copy>(program, "copy");
  add_method<fill>(program, "fill");
  add_method<gather>(program, "gather");
  add_method<interpolate>(program, "interpolate");
}

}  // namespace masktools
