"""Transposed convolutions: read as a convolution of their phases, on every backend."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_models import model, node, run, torch_onnx, weight
from open_networks import expected

from masktools.checkpoint import Checkpoint
from masktools.errors import GraphError
from masktools.network.onnx.forms import Phases
from masktools.network.onnx.reader import read_onnx
from runtime.backend import choose
from runtime.model import Model
from runtime.plan import plan

torch = pytest.importorskip("torch")


def network(shape, kernel, rows, group=1, **attributes):
    """Return a model of one transposed convolution, with `rows` outputs for each group."""
    constants = {"up.weight": weight(shape[1], rows, *kernel), "up.bias": weight(rows * group)}
    up = node("ConvTranspose", ["x", *constants], ["y"], "up", group=group, **attributes)
    return model([up], constants, [("x", ["N", *shape[1:]])])


def assert_equal(made, shape, backend="reference"):
    x = np.random.default_rng(1).standard_normal(shape, np.float32)
    (wanted,) = expected(made, x)
    checkpoint = Checkpoint(read_onnx(made))
    checkpoint.check()
    got = Model(plan.build(checkpoint), choose(backend))(x)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


@given(data=st.data(), axes=st.integers(1, 2))
def test_every_attribute_as_onnxruntime_has_it(data, axes):
    def each(least, most):
        return [data.draw(st.integers(least, most)) for _ in range(axes)]

    group, rows, kernel = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2)), each(1, 4)
    strides, dilations, size = each(1, 3), each(1, 3), each(2, 6)
    more = [min(n, s - 1) for n, s in zip(each(0, 2), strides, strict=True)]
    whole = [
        s * (n - 1) + d * (k - 1) + 1
        for s, n, d, k in zip(strides, size, dilations, kernel, strict=True)
    ]
    attributes = {"strides": strides, "dilations": dilations}
    kind = data.draw(st.sampled_from(["pads", "shape", "auto"]))
    if kind == "pads":
        pads = each(0, 3) + each(0, 3)
        fits = all(n > pads[i] + pads[i + axes] for i, n in enumerate(whole))
        attributes |= {"pads": pads if fits else [0] * 2 * axes, "output_padding": more}
    if kind == "shape":
        cuts = [max(cut, 1 - s) for cut, s in zip(each(-2, 3), strides, strict=True)]
        attributes["output_shape"] = [max(1, n - c) for n, c in zip(whole, cuts, strict=True)]
    if kind == "auto":
        reach = all(n >= s * m for n, s, m in zip(whole, strides, size, strict=True))
        choices = ["VALID", *(["SAME_UPPER", "SAME_LOWER"] if reach else [])]
        attributes["auto_pad"] = data.draw(st.sampled_from(choices))
    shape = (2, 2 * group, *size)
    assert_equal(network(shape, kernel, rows, group, **attributes), shape)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 4, "stride": 2, "padding": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
        {"kernel_size": 5, "stride": 3, "padding": 4, "dilation": 2, "output_padding": (2, 0)},
        {"kernel_size": 3, "padding": 1, "dilation": (1, 2)},
        {"kernel_size": 4, "stride": (1, 4), "groups": 4, "bias": False},
        {"kernel_size": 1, "stride": 2},
    ],
    ids=str,
)
def test_modules_as_torch_has_them(arguments, backend):
    torch.manual_seed(0)
    module = torch.nn.ConvTranspose2d(8, 12, **arguments).eval()
    shape = (1, 8, 7, 6)
    axes = {"x": {0: "batch"}}
    made = torch_onnx(module, torch.zeros(shape), input_names=["x"], dynamic_axes=axes)
    for batch in (1, 3, 17):
        x = np.random.default_rng(0).standard_normal((batch, *shape[1:]), np.float32)
        with torch.no_grad():
            wanted = module(torch.from_numpy(x)).numpy()
        got = Model(plan.build(Checkpoint(read_onnx(made))), choose(backend))(x)
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5)


def test_a_window_that_the_stride_divides_has_no_tap_too_many():
    """Twice the size by a window of two: four rows of one tap for each channel, and nothing cut."""
    graph = read_onnx(network((1, 3, 5, 4), (2, 2), 5, strides=[2, 2]))
    assert [n.op for n in graph.nodes] == ["Conv", "Reshape", "Transpose", "Reshape"]
    assert graph.constants["up.phases.weight"].shape == (20, 3, 1, 1)
    cropped = read_onnx(network((1, 3, 5, 4), (4, 4), 5, strides=[2, 2], pads=[1, 1, 1, 1]))
    assert cropped.constants["up.phases.weight"].shape == (20, 3, 2, 2)
    plain = read_onnx(network((1, 3, 5, 4), (3, 3), 5, pads=[1, 1, 1, 1]))
    assert [n.op for n in plain.nodes] == ["Conv"]


def test_open_sizes_stay_open():
    constants = {"up.weight": weight(3, 4, 3, 3)}
    up = node("ConvTranspose", ["x", *constants], ["y"], "up", strides=[2, 2], pads=[1, 1, 1, 1])
    made = model([up], constants, [("x", ["N", 3, "height", "width"])])
    graph = read_onnx(made)
    assert list(map(str, graph.outputs[0].shape[2:])) == ["2*height - 1", "2*width - 1"]
    checkpoint = Checkpoint(graph)
    ready = Model(plan.build(checkpoint), choose("reference"))
    for shape in [(1, 3, 8, 9), (2, 3, 5, 4)]:
        x = weight(*shape)
        np.testing.assert_allclose(ready(x), expected(made, x)[0], rtol=0, atol=1e-5)


@given(data=st.data(), axes=st.integers(1, 2))
def test_what_becomes_a_layer_becomes_the_file_again(data, axes):
    numbers = st.tuples(*[st.integers(1, 5)] * axes)
    groups, strides, dilations = (
        data.draw(st.integers(1, 3)),
        data.draw(numbers),
        data.draw(numbers),
    )
    shape = (2 * groups, 3, *data.draw(numbers))
    form = Phases(shape, groups, strides, dilations)
    array = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    layer = form.to_layer(array)
    assert layer.shape == form.layer_shape
    np.testing.assert_array_equal(np.sort(layer[layer != 0]), array.ravel())
    np.testing.assert_array_equal(form.to_file(layer), array)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"auto_pad": "SAME_UPPER", "strides": [4, 4]},
            r"auto_pad='SAME_UPPER' asks for \(20, 20\) pixels, of which .* \(19, 19\)",
        ),
        ({"strides": [2**20, 2**20]}, "weights of its 108; 67109728 are allowed"),
        ({"strides": [2, 0]}, r"attribute strides=\(2, 0\) for 2 spatial axes"),
        ({"kernel_shape": [2, 2]}, r"kernel_shape differs from its weight's \(3, 3\)"),
        ({"group": 2}, "a weight of shape .* with group=2 has no channels for each"),
        ({"auto_pad": "SAME"}, "auto_pad='SAME'"),
        ({"colour": 1}, "attribute colour=1 is not supported"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(attributes, message):
    group = attributes.pop("group", 1)
    with pytest.raises(GraphError, match=rf"node 'up' \(ConvTranspose\): .*{message}"):
        read_onnx(network((1, 3, 5, 5), (3, 3), 4, group, **attributes))


def test_a_file_without_a_bias_runs():
    up = node("ConvTranspose", ["x", "w"], ["y"], "up", strides=[2, 2])
    made = model([up], {"w": weight(3, 4, 3, 3)}, [("x", [1, 3, 6, 6])])
    x = weight(1, 3, 6, 6)
    np.testing.assert_allclose(run(read_onnx(made), x), expected(made, x)[0], rtol=0, atol=1e-5)
