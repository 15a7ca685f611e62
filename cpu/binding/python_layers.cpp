// The layers with weights, as methods of a program.
#include <pybind11/stl.h>

#include "binding/python_program.h"
#include "kernels/depthwise.h"
#include "kernels/layers.h"

namespace masktools {
namespace {

namespace py = pybind11;

// Input, output and skip branch of a layer.
struct Images {
  ImageArgument x, y;
  std::optional<ImageArgument> skip;
};

Images images_of(Fields& fields) {
  return {fields.image("x"), fields.image("y"), fields.image_or_none("skip")};
}

// Pixels from one row to the next of an image whose rows are pixels of `lanes` without gaps.
std::int64_t pitch_of(const Fields& fields, const char* name, const ImageArgument& image,
                      std::int64_t lanes) {
  if (image.lanes != lanes || image.pixel != lanes || lanes < 1 || image.row % lanes != 0) {
    throw py::value_error(fields.of() + ": the rows of " + name + " are no pixels without gaps");
  }
  return image.row / lanes;
}

// The same of input and output; the skip branch lies as the output does.
struct Pitches {
  std::int64_t x, y;
};

Pitches pitches_of(const Fields& fields, const Images& images) {
  const std::int64_t lanes = images.y.lanes;
  const Pitches made{pitch_of(fields, "x", images.x, lanes),
                     pitch_of(fields, "y", images.y, lanes)};
  if (images.skip && pitch_of(fields, "skip", *images.skip, lanes) != made.y) {
    throw py::value_error(fields.of() + ": skip has not the pitch of y");
  }
  return made;
}

Layer layer_of(PythonProgram& p, Fields& fields) {
  Layer layer = to_layer(&fields);
  const Images images = images_of(fields);
  layer.x = images.x.as_planes();
  layer.y = images.y.as_planes();
  if (images.skip) layer.skip = images.skip->as_planes();
  layer.arena_elements = p.arena_elements();
  return layer;
}

using MakeLayer = std::unique_ptr<const Operation> (*)(const Layer&);

template <MakeLayer kMake>
void add_layer(PythonProgram& p, std::int64_t step, Fields& fields) {
  Layer layer = layer_of(p, fields);
  layer.weights = fields.array<float>("weights");
  fields.done();
  p.add_float(step, kMake(layer));
}

// As a layer; its weights are numbers of bfloat16 as uint16, in tiles.
void add_bfloat16_layer(PythonProgram& p, std::int64_t step, Fields& fields) {
  const Layer layer = layer_of(p, fields);
  const Array<std::uint16_t> bits = fields.array<std::uint16_t>("weights");
  const Array<Bfloat16> tiles = {reinterpret_cast<const Bfloat16*>(bits.data), bits.size};
  const std::string product = fields.get<std::string>("product");
  fields.done();
  p.add_bfloat16(step, make_bfloat16_convolution(layer, tiles, product));
}

// A dense 3x3 layer of stride 1.
void add_winograd(PythonProgram& p, std::int64_t step, Fields& fields) {
  const Images images = images_of(fields);
  const Pitches pitches = pitches_of(fields, images);
  const WindowArgument window = fields.window("window");
  constexpr std::array<std::int64_t, 2> kThree{3, 3}, kOne{1, 1};
  if (window.kernel != kThree || window.strides != kOne || window.dilations != kOne) {
    throw py::value_error("winograd: the window is not 3 x 3, of strides and dilations of 1");
  }
  WinogradLayer layer;
  layer.x = images.x.as_planes();
  layer.y = images.y.as_planes();
  if (images.skip) layer.skip = images.skip->as_planes();
  layer.height = images.x.height;
  layer.width = images.x.width;
  layer.x_pitch = pitches.x;
  layer.out_height = images.y.height;
  layer.out_width = images.y.width;
  layer.y_pitch = pitches.y;
  layer.halo = images.y.halo;
  layer.batch = images.y.lanes;
  layer.pad_top = window.pads[0];
  layer.pad_left = window.pads[1];
  layer.weights = fields.array<float>("weights");
  layer.bias = fields.array<float>("bias");
  layer.activation = fields.activation("activation");
  layer.vectors = fields.get<std::int64_t>("vectors");
  layer.row_blocks = fields.get<std::int64_t>("row_blocks");
  layer.parts = fields.get<std::int64_t>("parts");
  layer.arena_elements = p.arena_elements();
  fields.done();
  p.add_float(step, make_winograd(layer));
}

void add_depthwise(PythonProgram& p, std::int64_t step, Fields& fields) {
  const Images images = images_of(fields);
  const WindowArgument window = fields.window("window");
  DepthwiseLayer layer;
  layer.x = images.x.as_view();
  layer.y = images.y.as_view();
  if (images.skip) layer.skip = images.skip->as_view();
  layer.halo = images.y.halo;
  layer.kernel = window.kernel;
  layer.strides = window.strides;
  layer.dilations = window.dilations;
  layer.pads = window.pads;
  layer.weights = fields.array<float>("weights");
  layer.bias = fields.array<float>("bias");
  layer.activation = fields.activation("activation");
  layer.strips = fields.get<std::int64_t>("strips");
  layer.parts = fields.get<std::int64_t>("parts");
  layer.arena_elements = p.arena_elements();
  fields.done();
  p.add(step, [&](auto t) { return make_depthwise<decltype(t)>(layer); });
}

// A convolution by rows of nonzeros.
void add_rows(PythonProgram& p, std::int64_t step, Fields& fields) {
  const Images images = images_of(fields);
  const ImageArgument &x = images.x, &y = images.y;
  const Pitches pitches = pitches_of(fields, images);
  const WindowArgument w = fields.window("window");
  RowsLayer layer;
  layer.x = x.as_planes();
  layer.y = y.as_planes();
  if (images.skip) layer.skip = images.skip->as_planes();
  layer.in = {x.height, x.width, pitches.x, x.lanes};
  layer.out = {y.height, y.width, pitches.y, y.lanes};
  layer.halo = y.halo;
  layer.taps = {w.kernel[0],    w.kernel[1],    w.strides[0], w.strides[1],
                w.dilations[0], w.dilations[1], w.pads[0],    w.pads[1]};
  layer.weights = fields.array<float>("weights");
  layer.columns = fields.array<std::uint16_t>("columns");
  layer.starts = fields.array<std::int32_t>("starts");
  layer.bias = fields.array<float>("bias");
  layer.activation = fields.activation("activation");
  layer.panel_channels = fields.get<std::int64_t>("panel_channels");
  const auto tile = fields.get<std::array<std::int64_t, 3>>("tile");
  layer.tile = {tile[0], tile[1], tile[2]};
  layer.copies = fields.choice<Copies>(
      "copies", {{"none", Copies::kNone}, {"columns", Copies::kColumns}, {"taps", Copies::kTaps}});
  layer.combine = fields.choice<Combine>(
      "combine", {{"store", Combine::kStore}, {"max", Combine::kMax}, {"add", Combine::kAdd}});
  const auto pool = fields.get<std::array<std::int64_t, 2>>("pool");
  layer.pool_y = pool[0];
  layer.pool_x = pool[1];
  layer.scale = fields.get<float>("scale");
  layer.parts = fields.get<std::int64_t>("parts");
  layer.arena_elements = p.arena_elements();
  fields.done();
  p.add_float(step, make_rows(layer));
}

// Unfolds x into planes whose rows are as long as those of y.
void add_unfold(PythonProgram& p, std::int64_t step, Fields& fields) {
  const ImageArgument x = fields.image("x"), y = fields.image("y");
  const auto strides = fields.get<std::array<std::int64_t, 2>>("strides");
  const auto rows = fields.get<std::int64_t>("rows");
  Unfolding unfolding;
  unfolding.x = x.as_planes();
  unfolding.height = x.height;
  unfolding.width = x.width;
  unfolding.pitch = pitch_of(fields, "x", x, x.lanes);
  unfolding.batch = x.lanes;
  unfolding.stride_y = strides[0];
  unfolding.stride_x = strides[1];
  unfolding.origins = fields.array<std::int64_t>("origins");
  unfolding.columns = pitch_of(fields, "y", y, x.lanes);
  unfolding.plane = y.plane;
  fields.done();
  if (y.planes != unfolding.x.planes * unfolding.planes()) {
    throw py::value_error("unfold: expected a plane for each channel and origin");
  }
  p.add(step, [&](auto t) {
    return make_unfold<decltype(t)>(unfolding, rows, y.offset, p.arena_elements());
  });
}

}  // namespace

void bind_layers(PythonClass* program) {
  add_method<add_layer<make_convolution>>(program, "convolution");
  add_method<add_layer<make_narrow>>(program, "narrow");
  add_method<add_bfloat16_layer>(program, "convolution_bfloat16");
  add_method<add_depthwise>(program, "depthwise");
  add_method<add_winograd>(program, "winograd");
  add_method<add_rows>(program, "rows");
  add_method<add_unfold>(program, "unfold");
}

}  // namespace masktools
