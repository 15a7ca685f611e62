"""A small ticket and its network for the commands, and a way to run them in this process."""

from __future__ import annotations

from typer.testing import CliRunner

from masktools.cli import app as command

FAST = ["--method", "regroup", "--partitioner", "spectral", "--group-rows", "4"]
SHAPES = {
    "stem": (8, 3, 3, 3),
    "conv1": (16, 8, 3, 3),
    "conv2": (16, 16, 3, 3),
    "fc": (10, 16),
}


def run(*arguments, status=0):
    """Run a command in this process; return what it wrote to both streams."""
    done = CliRunner().invoke(command.app, [str(a) for a in arguments])
    assert done.exit_code == status, (done.output, done.stderr)
    return done.stdout, done.stderr


def unboxed(stderr):
    """Return the words of a usage error, which the terminal breaks into lines inside a box."""
    return " ".join(stderr.translate(dict.fromkeys(map(ord, "│─╭╮╰╯"), " ")).split())


def only_line(stderr):
    assert stderr.count("\n") == 1, stderr
    return stderr


def write_onnx(path, weights):
    """Write the ticket's network: three convolutions, the mean over the image, a classifier."""
    from onnx import TensorProto, helper, numpy_helper, save

    nodes, x = [], "image"
    for name in ("stem", "conv1", "conv2"):
        pads = [1, 1, 1, 1]
        nodes.append(helper.make_node("Conv", [x, f"{name}.weight"], [name], name, pads=pads))
        x = name
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["mean"], "mean"))
    nodes.append(helper.make_node("Flatten", ["mean"], ["flat"], "flat"))
    nodes.append(helper.make_node("Gemm", ["flat", "fc.weight"], ["scores"], "fc", transB=1))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [value("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("scores", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(weight, f"{name}.weight") for name, weight in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
