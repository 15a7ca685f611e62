"""Which layers are converted, which stay dense, and why."""

from __future__ import annotations

import numpy as np
import pytest

from masktools.conversion.selection import select
from masktools.errors import MaskError
from masktools.named_layers import NamedLayers
from masktools.network.layers import Layer

# A small network's layers, in order.
SHAPES = {
    "stem": (8, 3, 3, 3),
    "deep": (8, 1, 3, 3),
    "conv": (16, 8, 3, 3),
    "hidden": (20, 16),
    "fc": (10, 20),
}


def half(**shapes):
    """Return masks that keep every second weight."""
    return {name: np.arange(np.prod(s)).reshape(s) % 2 == 0 for name, s in shapes.items()}


def reasons(masks, known=None, skip=(), include=()):
    sources = select(masks, None, known, NamedLayers.of(skip, include))
    assert [source.name for source in sources] == list(masks)
    return {source.name: source.dense_because for source in sources if source.dense_because}


def layer(name, role, groups=1):
    taps = np.ones(SHAPES[name][2:], np.int64) * 7
    return Layer(name, SHAPES[name], groups, role, (name,), taps)


def test_shapes_tell_what_they_can_where_there_is_no_graph():
    assert reasons(half(**SHAPES)) == {
        "stem": "taken for the first layer: no graph says otherwise",
        "deep": "taken for the first layer or depthwise: no graph says otherwise",
        "fc": "taken for the classifier: no graph says otherwise",
    }


@pytest.mark.parametrize("shape", [(8, 1, 5), (8, 3, 5), (8, 1, 1, 1)])
def test_one_dimensional_convolutions_over_few_channels_stay_dense(shape):
    assert list(reasons(half(wave=shape, conv=(8, 4, 3)))) == ["wave"]


def test_a_graph_knows_better():
    known = {
        "stem": layer("stem", ""),
        "deep": layer("deep", "depthwise", groups=8),
        "conv": layer("conv", "first", groups=2),
        "hidden": layer("hidden", "classifier"),
        "fc": layer("fc", ""),
    }
    masks = half(**SHAPES)
    assert reasons(masks, known) == {
        "deep": "a depthwise convolution",
        "conv": "the first layer",
        "hidden": "the classifier",
    }
    sources = {s.name: s for s in select(masks, None, known, NamedLayers.of())}
    assert [sources[name].groups for name in SHAPES] == [1, 8, 2, 1, 1]
    assert sources["conv"].column_cost.tolist() == [7] * 72
    assert sources["conv"].multiplications(sources["conv"].matrix) == 7 * 16 * 36
    assert select(masks, None, None, NamedLayers.of())[2].column_cost is None


def test_layers_are_named_to_be_skipped_or_converted():
    masks = half(**SHAPES)
    named = reasons(masks, skip=["hidden"], include=["stem", "fc"])
    assert sorted(named) == ["deep", "hidden"]
    assert named["hidden"] == "named in skip"


def test_a_mask_that_keeps_everything_stays_dense_unless_named():
    masks = half(**SHAPES) | {"conv": np.ones(SHAPES["conv"])}
    assert reasons(masks)["conv"] == "the mask keeps every weight"
    assert "conv" not in reasons(masks, include=["conv"])


def test_masks_of_a_dense_network_are_all_converted_but_where_layers_have_a_role():
    masks = {name: np.ones(shape) for name, shape in SHAPES.items()}
    named = reasons(masks)
    assert "conv" not in named
    assert "the mask keeps every weight" not in named.values()


def test_saliency_is_what_the_mask_leaves():
    masks = {"conv": np.array([[1, 0], [1, 1]])}
    weights = {"conv": np.array([[-2.0, 9.0], [0.5, 0.0]]), "unused": np.eye(3)}
    (source,) = select(masks, weights, None, NamedLayers.of())
    assert source.saliency.tolist() == [[2.0, 0.0], [0.5, 0.0]]
    (source,) = select(masks, None, None, NamedLayers.of())
    assert source.saliency.tolist() == [[1.0, 0.0], [1.0, 1.0]]


def test_a_mask_that_matches_no_layer_of_the_graph_is_refused():
    known = {"conv": layer("conv", "")}
    with pytest.raises(MaskError, match="the graph has no layer 'cnov'; there are 'conv'"):
        reasons(half(cnov=SHAPES["conv"]), known)
    with pytest.raises(MaskError, match=r"layer 'conv': expected a mask of shape \(16, 8, 3, 3\)"):
        reasons(half(conv=(16, 8, 1, 1)), known)


def test_many_layers_are_not_all_listed():
    masks = half(**{f"layer{i}": (4, 4) for i in range(30)})
    with pytest.raises(MaskError, match=r"there are 'layer0', .*'layer7' and 22 more$"):
        reasons(masks, skip=["layer30"])
