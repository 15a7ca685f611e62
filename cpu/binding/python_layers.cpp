// The layers with weights, as methods of a program.
#include <pybind11/stl.h>

#include "binding/python_program.h"
#include "kernels/depthwise.h"
#include "kernels/layers.h"

namespace masktools {
namespace {

namespace py = pybind11;

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

using MakeLayer = std::unique_ptr<const Operation> (*)(const Layer&);

template <MakeLayer kMake>
void add_layer(PythonProgram& p, std::int64_t step, const py::dict& arrays, const PlanesTuple& x,
               const PlanesTuple& y, const std::optional<PlanesTuple>& skip,
               const ActivationTuple& activation, const py::dict& configuration) {
  p.add_float(step, kMake(layer_of(p, arrays, x, y, skip, activation, configuration)));
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
  p.add_float(step, make_winograd(layer));
}

// A depthwise convolution. Views are (lanes, channels, height, width).
void add_depthwise(PythonProgram& p, std::int64_t step, const ViewTuple& x, const ViewTuple& y,
                   std::int64_t halo, const std::optional<ViewTuple>& skip,
                   const std::array<std::array<std::int64_t, 2>, 4>& window, const py::dict& arrays,
                   const ActivationTuple& activation, const py::dict& configuration) {
  DepthwiseLayer layer;
  layer.x = to_view(x);
  layer.y = to_view(y);
  if (skip) layer.skip = to_view(*skip);
  layer.halo = halo;
  layer.kernel = window[0];
  layer.strides = window[1];
  layer.dilations = window[2];
  layer.pads = window[3];
  layer.weights = to_array<float>(arrays["weights"], "weights", p.kept());
  layer.bias = to_array<float>(arrays["bias"], "bias", p.kept());
  layer.activation = to_activation(activation);
  layer.strips = entry(configuration, "strips", layer.strips);
  layer.parts = entry(configuration, "parts", layer.parts);
  layer.arena_elements = p.arena_elements();
  p.add(step, [&](auto t) { return make_depthwise<decltype(t)>(layer); });
}

// A convolution by rows of nonzeros. `image` and `output` hold height, width and pitch; the
// output's halo is last. `window`: kernel, strides, dilations and pads, each along y and x.
void add_rows(PythonProgram& p, std::int64_t step, const PlanesTuple& x,
              const std::array<std::int64_t, 3>& image, const PlanesTuple& y,
              const std::array<std::int64_t, 4>& output, const std::optional<PlanesTuple>& skip,
              std::int64_t batch, const std::array<std::int64_t, 8>& window, const py::dict& arrays,
              const ActivationTuple& activation, const py::dict& configuration) {
  RowsLayer layer;
  layer.x = to_planes(x);
  layer.y = to_planes(y);
  if (skip) layer.skip = to_planes(*skip);
  layer.in = {image[0], image[1], image[2], batch};
  layer.out = {output[0], output[1], output[2], batch};
  layer.halo = output[3];
  layer.taps = {window[0], window[1], window[2], window[3],
                window[4], window[5], window[6], window[7]};
  layer.weights = to_array<float>(arrays["weights"], "weights", p.kept());
  layer.columns = to_array<std::uint16_t>(arrays["columns"], "columns", p.kept());
  layer.starts = to_array<std::int32_t>(arrays["starts"], "starts", p.kept());
  layer.bias = to_array<float>(arrays["bias"], "bias", p.kept());
  layer.activation = to_activation(activation);
  layer.panel_channels = entry(configuration, "channels", layer.x.planes);
  layer.tile = {entry<std::int64_t>(configuration, "rows", 1),
                entry<std::int64_t>(configuration, "pixels", 1),
                entry<std::int64_t>(configuration, "samples", 1)};
  layer.copies = static_cast<Copies>(entry<std::int64_t>(configuration, "copies", 0));
  layer.combine = static_cast<Combine>(entry<std::int64_t>(configuration, "combine", 0));
  layer.pool_y = entry(configuration, "pool_y", layer.pool_y);
  layer.pool_x = entry(configuration, "pool_x", layer.pool_x);
  layer.scale = entry(configuration, "scale", layer.scale);
  layer.parts = entry(configuration, "parts", layer.parts);
  layer.arena_elements = p.arena_elements();
  p.add_float(step, make_rows(layer));
}

// As a layer, with `tiles` (numbers of bfloat16 as uint16) instead of `weights`, which are empty.
void add_bfloat16_layer(PythonProgram& p, std::int64_t step, const py::dict& arrays,
                        const PlanesTuple& x, const PlanesTuple& y,
                        const std::optional<PlanesTuple>& skip, const ActivationTuple& activation,
                        const py::dict& configuration) {
  const Layer layer = layer_of(p, arrays, x, y, skip, activation, configuration);
  const Array<std::uint16_t> bits = to_array<std::uint16_t>(arrays["tiles"], "tiles", p.kept());
  const Array<Bfloat16> tiles = {reinterpret_cast<const Bfloat16*>(bits.data), bits.size};
  const std::string name = entry<std::string>(configuration, "kernel", "");
  p.add_bfloat16(step, make_bfloat16_convolution(layer, tiles, name));
}

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
  p.add(step, [&](auto t) {
    return make_unfold<decltype(t)>(unfolding, rows, to.offset, p.arena_elements());
  });
}

}  // namespace

void bind_layers(PythonClass* program) {
  program->def("convolution", &add_layer<make_convolution>)
      .def("narrow", &add_layer<make_narrow>)
      .def("depthwise", &add_depthwise)
      .def("winograd", &add_winograd)
      .def("rows", &add_rows)
      .def("unfold", &add_unfold)
      .def("convolution_bfloat16", &add_bfloat16_layer);
}

}  // namespace masktools
