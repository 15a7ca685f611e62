"""What networks cost: both conventions, the paper's VGG-16, and live inputs after refilling."""

import numpy as np
import pytest
from builder import Builder

from masktools.errors import MaskError
from masktools.network.cost import Multiplications, multiplications, total
from masktools.network.graph import Graph, Node, Value

VGG16 = (64, 64, "pool", 128, 128, "pool", *[256] * 3, "pool", *[512] * 3, "pool", *[512] * 3)
SIDES = (32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2)
WINDOW = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1)}
POOL = {"kernel_shape": (2, 2), "strides": (2, 2), "dilations": (1, 1), "pads": (0,) * 4}


@pytest.fixture(scope="module")
def vgg16():
    """VGG-16 as the paper has it for CIFAR-10: one linear layer behind the convolutions."""
    nodes, constants, x, channels = [], {}, "image", 3
    for n, rows in enumerate((*VGG16, "pool")):
        if rows == "pool":
            nodes.append(Node(f"pool{n}", "MaxPool", (x,), (f"t{n}",), {**POOL, "ceil_mode": 0}))
        else:
            constants[f"conv{n}.weight"] = np.ones((rows, channels, 3, 3), np.float32)
            inputs = (x, f"conv{n}.weight")
            nodes.append(Node(f"conv{n}", "Conv", inputs, (f"t{n}",), {**WINDOW, "group": 1}))
            channels = rows
        x = f"t{n}"
    nodes.append(Node("flat", "Flatten", (x,), ("flat",), {"axis": 1}))
    nodes.append(Node("fc", "Gemm", ("flat", "fc.weight"), ("y",), {"transB": 1}))
    constants["fc.weight"] = np.ones((10, 512), np.float32)
    image, classes = Value("image", (None, 3, 32, 32)), Value("y", (None, 10))
    return Graph((image,), (classes,), tuple(nodes), constants)


def test_the_papers_vgg16(vgg16):
    found = multiplications(vgg16)
    assert found["fc"] == Multiplications(5120, 5120)
    convolutions = total({name: cost for name, cost in found.items() if name != "fc"})
    assert convolutions.padded == 313_196_544  # the paper prints 0.314 G
    assert convolutions.inside == 247_309_056
    assert total(found) == convolutions + Multiplications(5120, 5120)


def test_unstructured_masks_cost_what_they_keep(vgg16):
    rng = np.random.default_rng(0)
    names = [name.removesuffix(".weight") for name in vgg16.constants]
    masks = {n: rng.random(vgg16.constants[f"{n}.weight"].shape) < 0.3 for n in names[1:-1]}
    found = multiplications(vgg16, masks)
    pixels = {name: side**2 for name, side in zip(names, SIDES, strict=False)}
    for name, mask in masks.items():
        assert found[name].padded == mask.sum() * pixels[name]
        middle = mask[:, :, 1, 1].sum() * pixels[name]
        assert middle < found[name].inside < found[name].padded
    assert found[names[0]].padded == 64 * 27 * 1024


def test_refilled_layers_read_live_channels_alone(vgg16):
    rng = np.random.default_rng(1)
    names = [name.removesuffix(".weight") for name in vgg16.constants if "conv" in name]
    masks, kept = {}, [3]
    for name in names[1:]:
        shape = vgg16.constants[f"{name}.weight"].shape
        rows = rng.random(shape[0]) < 0.4
        masks[name] = np.broadcast_to(rows[:, None, None, None], shape)
        kept.append(int(rows.sum()))
    found = multiplications(vgg16, masks)
    kept = [3, 64, *kept[1:]]  # the first layer keeps its rows
    for n, name in enumerate(names):
        assert found[name].padded == kept[n] * kept[n + 1] * 9 * SIDES[n] ** 2
    assert found["fc"].padded == kept[-1] * 10
    assert all(not mask.flags.writeable for mask in masks.values())


def rows_of(b, layer, rows):
    """A mask that keeps some rows of a layer whole."""
    mask = np.zeros(b.constants[f"{layer}.weight"].shape, bool)
    mask[list(rows)] = True
    return mask


def test_over_a_skip_add_the_union_is_live():
    b = Builder()
    x = b.act("Relu", b.conv("x", 6, layer="a"))
    y = b.act("Relu", b.add_skip(b.conv(x, 6, layer="b"), x))
    graph = b.graph(b.conv(y, 4, layer="c"))
    found = multiplications(graph, {"a": rows_of(b, "a", [0, 1]), "b": rows_of(b, "b", [1, 4])})
    # Tied channels are one: b reads 0, 1 and 4 of x, though a makes 0 and 1 alone.
    assert [found[n].padded for n in "abc"] == [36 * 9 * n for n in (2 * 3, 2 * 3, 4 * 3)]


def test_channels_are_followed_through_concatenation_gates_and_depthwise_layers():
    b = Builder()
    left, right = b.conv("x", 4, layer="a"), b.conv("x", 4, layer="b")
    both = b.depthwise(b.concat(left, right), layer="d")
    graph = b.graph(b.conv(b.act("Relu", both), 5, 1, layer="c"))
    masks = {"a": rows_of(b, "a", [2]), "b": rows_of(b, "b", [0, 3])}
    found = multiplications(graph, masks)
    assert found["d"].padded == 36 * 9 * 3
    assert found["c"].padded == 36 * 5 * 3


def test_a_row_that_reads_dropped_channels_alone_is_dropped_itself():
    b = Builder()
    x = b.conv(b.conv("x", 4, layer="a"), 4, 1, layer="b")
    graph = b.graph(b.conv(x, 3, 1, layer="c"))
    through = np.eye(4, dtype=bool).reshape(4, 4, 1, 1)
    found = multiplications(graph, {"a": rows_of(b, "a", [1, 2]), "b": through})
    assert [found[n].padded for n in "abc"] == [36 * 9 * 6, 36 * 2, 36 * 3 * 2]
    # Only b has no empty row, so nothing is dropped of what it reads unless a is masked.
    assert multiplications(graph, {"b": through})["c"].padded == 36 * 12


def test_convolution_groups_read_their_own_channels():
    b = Builder()
    x = b.conv("x", 8, layer="a")
    graph = b.graph(b.conv(x, 6, 1, groups=2, layer="g"))
    a = rows_of(b, "a", [0, 4, 5, 6])
    assert multiplications(graph, {"a": a})["g"].padded == 36 * (3 * 1 + 3 * 3)
    first = {"a": a, "g": rows_of(b, "g", [0, 1, 2])}
    assert multiplications(graph, first)["g"].padded == 36 * 3 * 1


def test_layers_that_share_a_weight_count_for_each_of_their_places():
    b = Builder()
    made = [b.conv("x", 4, layer=name) for name in "ab"]
    graph = b.graph(b.concat(*[b.conv(x, 4, layer="s") for x in made]))
    # What one of the places reads is live in the weight.
    for name in "ab":
        found = multiplications(graph, {name: rows_of(b, name, [0])})
        assert found["s"].padded == 2 * 36 * 9 * 16
    found = multiplications(graph, {name: rows_of(b, name, [0, n]) for n, name in enumerate("ab")})
    assert found["s"].padded == 2 * 36 * 9 * 4 * 2


def test_matrices_over_another_axis_read_everything():
    conv = {"strides": (1,), "pads": (0, 0), "dilations": (1,), "group": 1}
    nodes = (
        Node("c", "Conv", ("x", "c.weight"), ("t",), conv),
        Node("g", "Gemm", ("t", "g.weight"), ("y",), {"transB": 1}),
    )
    weights = {"c.weight": np.ones((5, 3, 1), np.float32), "g.weight": np.ones((6, 8), np.float32)}
    graph = Graph((Value("x", (None, 3, 8)),), (Value("y", (None, 5, 6)),), nodes, weights)
    mask = np.arange(15).reshape(5, 3, 1) < 6
    assert [cost.padded for cost in multiplications(graph, {"c": mask}).values()] == [48, 240]


@pytest.mark.parametrize(
    ("masks", "match"),
    [
        ({"z": np.ones((4, 3, 3, 3))}, "the graph has no layer 'z'; there are 'a'"),
        ({"a": np.ones((4, 3))}, r"layer 'a': expected a mask of shape \(4, 3, 3, 3\), got"),
        ({"a": np.full((4, 3, 3, 3), 2)}, "layer 'a': expected a mask of 0 and 1"),
    ],
)
def test_masks_that_do_not_fit(masks, match):
    b = Builder()
    graph = b.graph(b.conv("x", 4, layer="a"))
    with pytest.raises(MaskError, match=match):
        multiplications(graph, masks)
