"""Networks whose images may have any size: equal to onnxruntime at each, and compiled for each."""

from __future__ import annotations

import fake_cupy
import numpy as np
import onnx
import open_networks
import pytest
from onnx_models import model as make
from onnx_models import node, weight
from open_networks import exported, image, outputs, same_padding
from ticket_commands import run as command

import masktools
import runtime
from masktools.checkpoint import Checkpoint, read, write
from masktools.export import from_onnx
from masktools.export.exporting import prepare
from masktools.network.graph import Graph, Node, Value
from masktools.network.onnx.reader import read_onnx
from masktools.network.sizes import Size
from runtime import InputError
from runtime.cuda.backend import CudaBackend
from runtime.model import KEPT_SHAPES, Model
from runtime.plan import plan as plans
from runtime.reference.backend import ReferenceBackend

NETWORKS = (*open_networks.MODULES, "same padding")


@pytest.fixture(scope="module")
def networks():
    return {name: same_padding() if name == NETWORKS[-1] else exported(name) for name in NETWORKS}


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    yield from fake_cupy.installed("emulated", monkeypatch, tmp_path)


def assert_equal(model, net, shape):
    x = image(shape)
    for ours, theirs in zip(outputs(model(x)), open_networks.expected(net, x), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_every_size_is_what_onnxruntime_computes(networks, name, backend, tmp_path):
    net, shapes = networks[name]
    from_onnx(net, tmp_path / "net.safetensors")
    model = runtime.load(tmp_path / "net.safetensors", backend)
    for shape in shapes:
        assert_equal(model, net, shape)
    assert all(isinstance(n, Size) for n in model.inputs[0].shape[3:])


@pytest.mark.parametrize("name", ["pyramid", "unet"])
def test_the_emulated_gpu_takes_every_size(cupy, networks, name):
    net, shapes = networks[name]
    model = Model(plans.build(prepare(net)[0]), CudaBackend())
    for shape in shapes[:2]:
        assert_equal(model, net, shape)


@pytest.mark.parametrize("opset", [11, 13])
def test_older_operator_sets_compute_sizes_in_other_ways(opset):
    net, shapes = exported("unet", opset)
    model = Model(plans.build(prepare(net)[0]), ReferenceBackend())
    assert_equal(model, net, shapes[1])


@pytest.mark.parametrize("name", ["pyramid", "unet"])
def test_masks_and_what_they_shrink_hold_at_every_size(networks, name, tmp_path):
    net, shapes = networks[name]
    path, out = tmp_path / "net.onnx", tmp_path / "net.safetensors"
    onnx.save(net, path)
    rng = np.random.default_rng(1)
    weights = read_onnx(net).constants
    masks = {n: rng.random(weights[f"{n}.weight"].shape) > 0.5 for n in ("a", "b")}
    for mask in masks.values():
        mask[:3] = False  # Whole rows: their channels leave the network.
    masktools.save_masks(tmp_path / "masks.npz", masks)
    command("export", path, out, "--masks", tmp_path / "masks.npz", "--residual", "keep")
    assert read(out).sparse["a"].layout.shape[0] < 8
    masked = onnx.ModelProto.FromString(net.SerializeToString())
    for tensor in masked.graph.initializer:
        mask = masks.get(tensor.name.removesuffix(".weight"))
        if mask is not None and tensor.name.endswith(".weight"):
            array = onnx.numpy_helper.to_array(tensor) * mask
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype("f4"), tensor.name))
    for backend in ("reference", "cpu"):
        model = runtime.load(out, backend)
        for shape in shapes:
            assert_equal(model, masked, shape)


def test_constant_channels_count_where_pads_follow_from_the_size():
    """At the even sizes of the examples nothing is padded, at odd ones the border is."""
    w = weight(6, 3, 1, 1)
    w[:3] = 0  # rows that make constant channels
    net = make(
        [
            node("Conv", ["x", "w", "bias"], ["a"], name="a"),
            node("Relu", ["a"], ["r"]),
            node("Conv", ["r", "v"], ["b"], name="b", auto_pad="SAME_UPPER", strides=[2, 2]),
            node("Conv", ["b", "u"], ["y"], name="c"),
        ],
        {"w": w, "bias": np.full(6, 2, "f4"), "v": weight(4, 6, 2, 2), "u": weight(2, 4, 1, 1)},
        [("x", ["N", 3, "height", "width"])],
    )
    checkpoint, _ = prepare(net)
    assert checkpoint.graph.constants["a.weight"].shape[0] < 6
    model = Model(plans.build(checkpoint), ReferenceBackend())
    for shape in ((1, 3, 8, 6), (2, 3, 7, 5)):
        assert_equal(model, net, shape)


def test_an_executable_for_each_shape_and_few_of_them_are_kept(networks):
    model = Model(plans.build(prepare(networks["plain"][0])[0]), ReferenceBackend())
    for width in range(8, 8 + KEPT_SHAPES + 3):
        model(image((1, 3, 16, width)))
    assert len(model._compiled) == KEPT_SHAPES
    rows = model.profile(image((2, 3, 16, 40)))
    assert rows[0].inputs == ((2, 3, 16, 40),)
    assert rows[0].output == (2, 8, 8, 20)
    assert rows[0].multiplications == model.profile(image((1, 3, 16, 40)))[0].multiplications * 2


def test_weights_are_packed_once_for_all_sizes(networks):
    model = Model(plans.build(prepare(networks["plain"][0])[0]), runtime.backend.choose("cpu"))
    for width in (16, 32, 48):
        model(image((1, 3, 32, width)))
    assert len(model.backend._packed) == 1


def joined():
    """A network that works only where halving and doubling gives the height back."""
    window = {
        "kernel_shape": (2, 2), "strides": (2, 2), "dilations": (1, 1), "pads": (0, 0, 0, 0),
        "ceil_mode": 0,
    }  # fmt: skip
    resize = {
        "axes": (2, 3), "scales": (2.0, 2.0), "mode": "nearest", "nearest_mode": "floor",
        "coordinate_transformation_mode": "asymmetric",
    }  # fmt: skip
    height, width = Size.open("height", 64), Size.open("width", 32)
    return Graph(
        (Value("x", (None, 1, height, width)),),
        (Value("y", (None, 2, height, width)),),
        (
            Node("half", "MaxPool", ("x",), ("h",), window),
            Node("double", "Resize", ("h",), ("d",), resize),
            Node("join", "Concat", ("x", "d"), ("y",), {"axis": 1}),
        ),
    )


def test_a_size_at_which_it_does_not_work_is_refused_by_node_and_shape():
    model = Model(plans.build(Checkpoint(joined())), ReferenceBackend())
    assert model(image((1, 1, 6, 4))).shape == (1, 2, 6, 4)
    with pytest.raises(InputError, match=r"x of shape \(1, 1, 7, 4\): node 'join' \(Concat\)"):
        model(image((1, 1, 7, 4)))
    with pytest.raises(InputError, match=r"\(1, 1, 1, 4\): node 'half' \(MaxPool\).*larger than"):
        model(image((1, 1, 1, 4)))
    with pytest.raises(InputError, match=r"expected shape \(N, 1, height, width\)"):
        model(image((1, 2, 6, 4)))


def test_a_size_that_takes_too_much_memory_is_refused_before_it_is_taken():
    model = Model(plans.build(Checkpoint(joined())), ReferenceBackend())
    huge = np.broadcast_to(np.float32(0), (1, 1, 2**15, 2**15))
    with pytest.raises(InputError, match="numbers in a sample"):
        model(huge)


def test_sizes_of_one_name_are_equal():
    side = Size.open("side", 8)
    graph = Graph(
        (Value("x", (None, 1, side, side)),),
        (Value("y", (None, 1, side, side)),),
        (Node("relu", "Relu", ("x",), ("y",)),),
    )
    model = Model(plans.build(Checkpoint(graph)), ReferenceBackend())
    assert model(image((1, 1, 5, 5))).shape == (1, 1, 5, 5)
    with pytest.raises(InputError, match="side is 5 before"):
        model(image((1, 1, 5, 6)))


def test_a_side_input_keeps_its_size_beside_an_open_batch():
    graph = Graph(
        (Value("x", (None, 3, Size.open("height", 8))), Value("s", (1, 3, 1))),
        (Value("y", (None, 3, Size.open("height", 8))),),
        (Node("add", "Add", ("x", "s"), ("y",)),),
    )
    model = Model(plans.build(Checkpoint(graph)), ReferenceBackend())
    x, s = image((4, 3, 5)), image((1, 3, 1))
    np.testing.assert_array_equal(model({"x": x, "s": s}), x + s)


def test_a_file_keeps_its_open_sizes(tmp_path, networks):
    first = prepare(networks["unet"][0])[0]
    write(tmp_path / "a.safetensors", first)
    second = read(tmp_path / "a.safetensors")
    write(tmp_path / "b.safetensors", second)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    for one, other in zip(first.graph.nodes, second.graph.nodes, strict=True):
        assert (one.op, one.inputs) == (other.op, other.inputs)
        assert dict(map(repr, pair) for pair in one.attributes.items()) == dict(
            map(repr, pair) for pair in other.attributes.items()
        )
    assert second.graph.inputs[0].shape_text == "(N, 3, height, width)"
