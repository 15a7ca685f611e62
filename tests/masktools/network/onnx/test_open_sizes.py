"""Files that leave sizes open: what is read of them, and what is refused by name."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx_models import ints, model, node, weight
from open_networks import MODULES, exported, image, same_padding
from ticket_commands import run as command

import masktools
import runtime
from masktools.errors import CalibrationError, GraphError
from masktools.network.fixing import fixed, sizes_of
from masktools.network.onnx.reader import read_onnx
from masktools.network.sizes import Size, spelled

OPEN = [("x", ["N", 3, "height", "width"])]
WINDOW = {"kernel_shape": [7, 7], "strides": [7, 7]}


def shapes(net):
    graph = read_onnx(net)
    return [spelled(value.shape) for value in (*graph.inputs, *graph.outputs)]


def test_sizes_have_the_names_of_the_file():
    relu = [node("Relu", ["x"], ["y"])]
    for given, named in [
        (["N", 3, "height", "width"], ["height", "width"]),
        (["N", 3, "s", "s"], ["s", "s"]),
        (["N", 3, None, None], ["x_2", "x_3"]),
        (["N", 3, "None", "None"], ["x_2", "x_3"]),
        (["N", 3, "image height", "2*w"], ["image_height", "x_3"]),
        (["N", 3, "N", "max"], ["size_N", "size_max"]),
        (["N", 3, "a b", "a_b"], ["a_b", "a_b_1"]),
    ]:
        assert shapes(model(relu, inputs=[("x", given)])) == [[None, 3, *named]] * 2
    fixed = model(relu, inputs=[("x", [1, 3, "height", 8])])
    assert shapes(fixed) == [[None, 3, "height", 8]] * 2


def test_an_open_batch_and_a_fixed_side_input_may_be_mixed():
    net = model(
        [
            node("Mul", ["x", "side"], ["m"]),
            node("Relu", ["m"], ["y"], name="of_both"),
            node("Relu", ["side"], ["z"], name="of_side"),
        ],
        inputs=[("side", [1, 3, 1, 1]), *OPEN],
        outputs=("y", "z"),
    )  # fmt: skip
    assert shapes(net) == [
        [1, 3, 1, 1], [None, 3, "height", "width"], [None, 3, "height", "width"], [1, 3, 1, 1],
    ]  # fmt: skip


def test_samples_that_a_side_input_mixes_are_refused():
    net = model(
        [node("Concat", ["x", "side"], ["y"], axis=0)],
        inputs=[("x", ["N", 3]), ("side", [1, 3])],
    )
    with pytest.raises(GraphError, match=r"tensor 'y'.*mixes the images of a batch"):
        read_onnx(net)


REFUSED = {
    "a size that a matrix fixes": (
        [node("Flatten", ["x"], ["f"]), node("MatMul", ["f", "w"], ["y"])],
        {"w": weight(3 * 256 * 384, 1)},
        r"works only at some, such as height = 256, width = 384.*--input-shape",
    ),
    "a constant of the image's size": (
        [
            node("Shape", ["x"], ["s"]),
            node("ConstantOfShape", ["s"], ["zeros"]),
            node("Add", ["x", "zeros"], ["y"], name="grid"),
        ],
        {},
        r"node 'grid' \(Add\): constant 'zeros' depends on the sizes of the input, which",
    ),
    "a factor of the image's size": (
        [
            node("Size", ["x"], ["s"]),
            node("Cast", ["s"], ["f"], to=1),
            node("Div", ["x", "f"], ["y"], name="mean"),
        ],
        {},
        r"node 'mean' \(Div\): constant 'f' depends on the sizes of the input",
    ),
    "what two sizes differ by, lost on its way": (
        [
            node("Shape", ["x"], ["h"], "rows", start=2, end=3),
            node("Shape", ["x"], ["w"], "columns", start=3, end=4),
            node("Sub", ["h", "w"], ["wider"]),
            node("Abs", ["wider"], ["more"]),
            node("Concat", ["before", "more"], ["pads"], axis=0),
            node("Pad", ["x", "pads"], ["y"], name="square"),
        ],
        {"before": ints(0, 0, 0, 0, 0, 0, 0)},
        r"node 'square' \(Pad\) depends on the sizes of the input",
    ),
    "scales that follow from sizes": (
        [
            node("Shape", ["x"], ["s"]),
            node("Cast", ["s"], ["f"], to=1),
            node("Div", ["forty", "f"], ["scales"]),
            node("Resize", ["x", "", "scales"], ["y"], name="to_forty"),
        ],
        {"forty": np.full(4, 40, np.float32)},
        r"node 'to_forty' \(Resize\) depends on the sizes of the input",
    ),
    "axes that follow from sizes": (
        [node("Squeeze", ["x"], ["y"], name="any")],
        {},
        r"node 'any' \(Squeeze\): it needs axes where sizes are open",
    ),
    "a chain of pools": (
        [node("AveragePool", ["x"], ["y"], kernel_shape=[20000, 1])],
        {},
        r"tried were height = 256, width = 384;.*--input-shape",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_depends_on_sizes_otherwise_is_refused_by_name(what):
    nodes, constants, said = REFUSED[what]
    with pytest.raises(GraphError, match=said):
        read_onnx(model(nodes, constants, OPEN))


def test_an_operator_that_cannot_be_read_is_no_matter_of_sizes():
    net = model([node("NonZero", ["x"], ["y"], name="data")], inputs=OPEN)
    with pytest.raises(GraphError) as refused:
        read_onnx(net)
    assert "operator 'NonZero' is not supported" in str(refused.value)
    assert "input-shape" not in str(refused.value)


def test_sizes_by_arithmetic_in_floats():
    net = model(
        [
            node("Shape", ["x"], ["s"]),
            node("Slice", ["s", "two", "four"], ["hw"]),
            node("Cast", ["hw"], ["f"], to=1),
            node("Mul", ["f", "scale"], ["g"]),
            node("Floor", ["g"], ["h"]),
            node("Cast", ["h"], ["i"], to=7),
            node("Concat", ["head", "i"], ["sizes"], axis=0),
            node("Resize", ["x", "", "", "sizes"], ["y"], name="resize"),
        ],
        {"two": ints(2), "four": ints(4), "head": ints(1, 3), "scale": np.float32([0.5, 1.5])},
        OPEN,
    )  # fmt: skip
    with pytest.raises(GraphError, match="mixes the images of a batch"):
        read_onnx(net)  # Of one image alone: the first size is a constant, the batch is open.
    net.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = read_onnx(net)
    assert spelled(graph.nodes[-1].attributes["sizes"]) == ["height//2", "(3*width)//2"]


@pytest.fixture
def net(tmp_path):
    made, _ = exported("pyramid")
    onnx.save(made, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def test_the_commands_say_and_take_open_sizes(net, tmp_path):
    out = tmp_path / "net.safetensors"
    report = json.loads(command("export", net, out, "--json")[0])
    ran = list(report["verification"]["backends"]["reference"]["differences"])
    assert ran == ["1", "3", "1, height = 128, width = 192", "1, height = 109, width = 173"]
    text = command("inspect", out)[0]
    assert "x (N, 3, height, width)" in text
    assert "multiplications are counted at height = 256, width = 384" in text
    whole = json.loads(command("inspect", out, "--json")[0])
    assert whole["inputs"]["x"] == [None, 3, "height", "width"]
    assert whole["sizes"] == {"height": 256, "width": 384}
    given = ("--input-shape", "?,3,128,192")
    part = json.loads(command("inspect", out, "--json", *given)[0])
    assert part["inputs"]["x"] == [None, 3, 128, 192]
    few, many = (of["layers"][-1]["multiplications"] for of in (part, whole))
    assert 3.9 < many / few < 4.1
    _, stderr = command("inspect", out, "--input-shape", "1,4,8,8", status=1)
    assert "the network fixes axis 1 to 3" in stderr
    _, stderr = command("inspect", net, *given, status=1)
    assert "--input-shape is for checkpoints" in stderr


def test_networks_are_calibrated_at_the_sizes_of_the_samples(net, tmp_path):
    rng = np.random.default_rng(0)
    masks = {name: rng.random((8, 8, 3, 3)) > 0.5 for name in ("b", "c")}
    result = masktools.convert(
        masks, method="regroup", partitioner="spectral", group_rows=4, include=["b", "c"],
        progress=False, graph=net,
    )  # fmt: skip
    images = image((40, 3, 20, 28))
    found = masktools.calibrate(net, result, images, run=runtime.prepare, progress=False)
    assert found.report.error_after < found.report.error_before
    np.save(tmp_path / "images.npy", images)
    result.save(tmp_path / "result")
    command(
        "export", net, tmp_path / "out.safetensors", "--layouts", tmp_path / "result",
        "--residual", "drop", "--calibrate", tmp_path / "images.npy",
    )  # fmt: skip
    assert spelled(runtime.load(tmp_path / "out.safetensors").inputs[0].shape)[2] == "height"
    with pytest.raises(CalibrationError, match=r"expected shape \(N, 3, height, width\)"):
        masktools.calibrate(net, result, images[:, :2], run=runtime.prepare, progress=False)


@pytest.mark.parametrize("name", [*MODULES, "same padding"])
def test_formulas_are_what_is_read_where_the_sizes_are_given(name):
    """Two ways to one network: its formulas at some sizes, and its file at these."""
    net, tried = same_padding() if name == "same padding" else exported(name)
    graph = read_onnx(net)
    rng = np.random.default_rng(0)
    for _ in range(6):
        shape = [
            n - 8 + int(rng.integers(0, 40)) if isinstance(own, Size) else n
            for n, own in zip(tried[0], graph.inputs[0].shape, strict=True)
        ]
        given = read_onnx(net, ["?", *shape[1:]])
        numbers = fixed(graph, sizes_of(graph.inputs, {"x": tuple(shape)}))
        assert numbers.outputs == given.outputs
        for one, other in zip(numbers.nodes, given.nodes, strict=True):
            assert (one.op, one.inputs, one.attributes) == (
                other.op,
                other.inputs,
                other.attributes,
            )
