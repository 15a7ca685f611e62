"""Masks from weights: the laws against slow computations, counts, ties, which layers, refusals."""

from __future__ import annotations

from fractions import Fraction
from math import floor, prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masktools import MaskError, prune
from masktools.network.graph import Graph, Node, Value
from masktools.prune.counts import ACROSS, counts, largest

SHAPES = {
    "conv1": (8, 6, 3, 3),
    "conv2": (12, 8, 3, 3),
    "point": (16, 12, 1, 1),
    "wave": (6, 8, 5),
    "matrix": (9, 16),
}
SCALES = {"conv1": 1.0, "conv2": 0.3, "point": 2.0, "wave": 0.05, "matrix": 1.0}
DENSITIES = (0.02, 0.1, 0.33, 0.5, 0.9, 1.0)


def network(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        name: (scale * rng.standard_normal(SHAPES[name])).astype(dtype)
        for name, scale in SCALES.items()
    }


def pruned(weights, density, across, **options):
    """Prune every layer of a network: its last matrix would be taken for the classifier."""
    return prune.magnitude(weights, density, across=across, include=["matrix"], **options)


def number(shapes, density):
    return floor(density * sum(prod(shape) for shape in shapes) + 0.5)


def ranked(weights, across):
    """Return (layer, index) of all weights, best first, in exact arithmetic, one by one."""
    scored = []
    for at, weight in enumerate(weights.values()):
        flat = [Fraction(float(w)) for w in weight.ravel()]
        order = sorted(range(len(flat)), key=lambda i: (-abs(flat[i]), i))
        larger = Fraction(0)
        for rank, i in enumerate(order):
            larger += flat[i] ** 2
            score = flat[i] ** 2 / larger if across == "lamp" else abs(flat[i])
            scored.append((-score, at, rank if across == "lamp" else i, i))
    return [(at, i) for _, at, _, i in sorted(scored)]


def scale_of_erk(shapes, count):
    """Return by how much Erdős-Rényi-kernel densities are scaled, at most 1 each: by bisection."""
    low, high = 0.0, float(sum(map(prod, shapes)))
    for _ in range(200):
        middle = (low + high) / 2
        kept = sum(min(prod(s), middle * sum(s)) for s in shapes)
        low, high = (middle, high) if kept < count else (low, middle)
    return high


@pytest.mark.parametrize("across", ["global", "lamp"])
@pytest.mark.parametrize("density", DENSITIES)
def test_layers_compete_as_in_a_slow_exact_computation(across, density):
    weights = network()
    best = set(ranked(weights, across)[: number(SHAPES.values(), density)])
    for at, (name, mask) in enumerate(pruned(weights, density, across).items()):
        kept = {(at, int(i)) for i in np.flatnonzero(mask)}
        assert kept == {one for one in best if one[0] == at}, name


@pytest.mark.parametrize("density", DENSITIES)
def test_uniform_gives_each_layer_the_density_and_its_largest_weights(density):
    weights = network()
    for name, mask in pruned(weights, density, "uniform").items():
        assert abs(mask.sum() - density * mask.size) < 1
        inside, outside = np.abs(weights[name][mask]), np.abs(weights[name][~mask])
        assert not outside.size or inside.min() >= outside.max()


@pytest.mark.parametrize("density", DENSITIES)
def test_erk_scales_densities_and_full_layers_hand_on_what_they_cannot_take(density):
    weights = network()
    masks = pruned(weights, density, "erk")
    scale = scale_of_erk(list(SHAPES.values()), number(SHAPES.values(), density))
    for name, mask in masks.items():
        assert abs(mask.sum() - min(mask.size, scale * sum(mask.shape))) < 1 + 1e-6
        inside, outside = np.abs(weights[name][mask]), np.abs(weights[name][~mask])
        assert not outside.size or inside.min() >= outside.max()
    if density == 0.5:  # the case that the name of this test is about
        assert masks["matrix"].sum() < scale * sum(SHAPES["conv2"])
        full = [name for name, mask in masks.items() if mask.all()]
        assert full
        assert full != list(masks)


@given(
    st.lists(st.lists(st.integers(1, 4), min_size=2, max_size=4), min_size=1, max_size=5),
    st.sampled_from(ACROSS),
    st.floats(0, 1),
    st.integers(0, 3),
    st.integers(0, 99),
)
def test_the_number_that_is_kept_is_exact_whatever_ties_there_are(
    shapes, across, share, most, seed
):
    rng = np.random.default_rng(seed)
    scores = [rng.integers(0, most + 1, prod(shape)).astype(np.float64) for shape in shapes]
    count = round(share * sum(len(one) for one in scores))
    kept = counts(scores, list(map(tuple, shapes)), count, across)
    assert sum(kept) == count
    assert all(0 <= n <= len(one) for n, one in zip(kept, scores, strict=True))


@given(st.lists(st.integers(0, 3), max_size=20), st.data())
def test_of_equals_those_that_come_first_are_kept(scores, data):
    count = data.draw(st.integers(0, len(scores)))
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count]
    given_scores = np.array(scores, np.float64)
    assert np.flatnonzero(largest(given_scores, count)).tolist() == sorted(order)
    assert given_scores.tolist() == scores


@pytest.mark.parametrize("across", ACROSS)
def test_ties_go_by_layer_and_then_by_position(across):
    weights = {"b": np.full((2, 3), -0.5), "a": np.full((3, 2), 0.5), "fc": np.ones((2, 2))}
    masks = prune.magnitude(weights, 7 / 12, across=across)
    assert [int(mask.sum()) for mask in masks.values()] == (
        [6, 1, 4] if across == "global" else [4, 3, 4]
    )
    for mask in masks.values():
        flat = mask.ravel().tolist()
        assert flat == sorted(flat, reverse=True)


def test_all_zero_weights_are_counted_like_others_and_come_last():
    weights = {"a": np.zeros((4, 4)), "b": np.eye(4), "fc": np.eye(2)}
    for across in ("global", "lamp"):
        masks = prune.magnitude(weights, 6 / 32, across=across)
        assert masks["b"].tolist() == np.eye(4, dtype=bool).tolist()
        assert np.flatnonzero(masks["a"]).tolist() == [0, 1]
    assert prune.magnitude(weights, 0.5, across="uniform")["a"].sum() == 8


def test_lamp_leaves_every_layer_something_where_magnitudes_leave_one_nothing():
    weights = network() | {"tiny": 1e-30 * network(1)["conv2"]}
    several = len(weights) / sum(w.size for w in weights.values())
    for density in (several, 0.05):
        masks = {across: pruned(weights, density, across) for across in ("global", "lamp")}
        assert not masks["global"]["tiny"].any()
        assert all(mask.any() for mask in masks["lamp"].values())


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e30])
def test_lamp_does_not_depend_on_the_scale_of_a_layer(scale):
    weights = {name: w.astype(np.float64) for name, w in network().items()}
    scaled = weights | {"conv2": weights["conv2"] * 2.0 ** round(np.log2(scale) * 5)}
    same, other = pruned(weights, 0.2, "lamp"), pruned(scaled, 0.2, "lamp")
    assert all(np.array_equal(same[name], other[name]) for name in same)


@pytest.mark.parametrize("across", ACROSS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8])
def test_weights_stay_as_they_were_and_masks_are_new(across, dtype):
    weights = {name: (20 * w).astype(dtype) for name, w in network().items()}
    before = {name: w.tobytes() for name, w in weights.items()}
    for w in weights.values():
        w.flags.writeable = False
    masks = pruned(weights, 0.3, across)
    assert {name: w.tobytes() for name, w in weights.items()} == before
    assert list(masks) == list(weights)
    for name, mask in masks.items():
        assert mask.dtype == np.bool_
        assert mask.shape == weights[name].shape
        assert mask.flags.c_contiguous
        assert mask.flags.writeable
    assert sum(mask.sum() for mask in masks.values()) == number(SHAPES.values(), 0.3)


def test_the_least_integer_is_a_large_one():
    weights = {"a": np.array([[1, -128], [127, 3]], np.int8), "fc": np.eye(2)}
    assert prune.magnitude(weights, 0.25)["a"].tolist() == [[False, True], [False, False]]


def test_float64_weights_are_compared_as_they_are():
    weights = {"a": np.array([[1.0, 1.0 + 1e-12]]), "fc": np.eye(2)}
    assert prune.magnitude(weights, 0.5)["a"].tolist() == [[False, True]]


def test_a_transposed_view_is_masked_in_its_own_order():
    weight = np.arange(6.0).reshape(2, 3).T
    masks = prune.magnitude({"a": weight, "fc": np.eye(2)}, 0.5)
    assert np.array_equal(masks["a"], weight >= 3)


# Which layers


def test_shapes_tell_the_layers_that_keep_every_weight():
    weights = {
        "stem": np.ones((4, 3, 3, 3)),
        "deep": np.ones((4, 1, 3, 3)),
        "conv": np.ones((4, 4, 3, 3)),
        "hidden": np.ones((6, 4)),
        "fc": np.ones((2, 6)),
    }
    total = weights["conv"].size + weights["hidden"].size
    masks = prune.magnitude(weights, 0.5, across="uniform")
    assert [name for name, mask in masks.items() if mask.all()] == ["stem", "deep", "fc"]
    assert masks["conv"].sum() + masks["hidden"].sum() == total / 2
    masks = prune.magnitude(weights, 0.5, across="uniform", skip=["conv"], include=["deep", "fc"])
    assert [name for name, mask in masks.items() if mask.all()] == ["stem", "conv"]
    assert [masks[name].sum() for name in ("deep", "hidden", "fc")] == [18, 12, 6]


def graph(names=("stem", "deep", "conv", "fc")):
    """Return a network that shapes alone would be wrong about: four channels come in."""
    stem, deep, conv, fc = names
    window = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1), "group": 1}
    nodes = (
        Node(stem, "Conv", ("x", f"{stem}.weight"), ("a",), window),
        Node(deep, "Conv", ("a", f"{deep}.weight"), ("b",), window | {"group": 8}),
        Node(conv, "Conv", ("b", f"{conv}.weight"), ("c",), window),
        Node("flat", "Flatten", ("c",), ("d",), {"axis": 1}),
        Node(fc, "Gemm", ("d", f"{fc}.weight"), ("y",), {"transB": 1}),
    )
    weights = {
        name: np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        for name, shape in zip(
            names, ((8, 4, 1, 1), (8, 1, 1, 1), (3, 8, 1, 1), (5, 48)), strict=True
        )
    }
    ends = (Value("x", (None, 4, 4, 4)),), (Value("y", (None, 5)),)
    constants = {f"{name}.weight": w for name, w in weights.items()}
    return Graph(*ends, nodes, constants), weights


def test_a_graph_tells_the_layers_that_keep_every_weight():
    network, weights = graph()
    masks = prune.magnitude(weights, 0.5, graph=network)
    assert [name for name, mask in masks.items() if not mask.all()] == ["conv"]
    assert masks["conv"].sum() == 12
    masks = prune.magnitude(weights, 0.5, graph=network, include=["stem", "fc"], skip=["conv"])
    assert [name for name, mask in masks.items() if not mask.all()] == ["stem", "fc"]
    assert [n for n, m in prune.magnitude(weights, 0.5).items() if not m.all()] == ["stem", "conv"]


def test_weights_are_matched_with_a_graph_that_has_other_names():
    network, weights = graph([f"/{name}/Conv" for name in ("stem", "deep", "conv", "fc")])
    called = {name.split("/")[1]: weight for name, weight in weights.items()}
    masks = prune.magnitude(called, 0.5, graph=network)
    assert [name for name, mask in masks.items() if not mask.all()] == ["conv"]


# Refusals


@pytest.mark.parametrize(
    ("density", "error", "match"),
    [
        (0, MaskError, r"density 0 keeps none of the 1200 weights .*: give at least 0.00083"),
        (0.0004, MaskError, r"density 0.0004 keeps none of the 1200 weights"),
        (1.5, MaskError, "density must be between 0 and 1, got 1.5"),
        (-0.1, MaskError, "density must be between 0 and 1, got -0.1"),
        (float("nan"), MaskError, "density must be between 0 and 1, got nan"),
        ("0.5", TypeError, "density must be a number, got str"),
        (True, TypeError, "density must be a number, got bool"),
        (None, TypeError, "density must be a number, got NoneType"),
    ],
)
def test_densities_that_cannot_be_reached_are_refused(density, error, match):
    weights = {"a": np.ones((30, 40)), "fc": np.ones((2, 30))}
    with pytest.raises(error, match=match):
        prune.magnitude(weights, density)


def test_the_least_density_that_is_named_keeps_a_weight():
    weights = {"a": np.ones((30, 40)), "fc": np.ones((2, 30))}
    assert prune.magnitude(weights, 0.00083)["a"].sum() == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_where_they_are_compared(value):
    weights = network()
    weights["conv2"][3, 1, 2, 0] = value
    with pytest.raises(
        MaskError, match=rf"layer 'conv2': .* got {value} at \(3, 1, 2, 0\); .* skip"
    ):
        prune.magnitude(weights, 0.5)
    assert prune.magnitude(weights, 0.5, skip=["conv2"])["conv2"].all()


@pytest.mark.parametrize(
    ("weights", "error", "match"),
    [
        ({}, MaskError, "there are no weights to prune"),
        ([np.ones((2, 2))], TypeError, "weights must be a mapping by layer, got list"),
        ({"a": np.ones(4)}, MaskError, r"layer 'a': .* got \(4,\); leave biases"),
        ({"a": np.ones((1, 1, 1, 1, 1))}, MaskError, r"layer 'a': .* got \(1, 1, 1, 1, 1\)"),
        ({"a": [["x"]]}, TypeError, "layer 'a': expected real weights, got dtype <U1"),
        ({"a": [[1j]]}, TypeError, "layer 'a': expected real weights, got dtype complex128"),
        ({"a": [[1.0], [1.0, 2.0]]}, MaskError, "layer 'a': .* lists of unequal length"),
        ({"fc": np.ones((2, 2))}, MaskError, r"no layer to prune, .* include: 'fc' \(taken for"),
        ({"a": np.ones((0, 3)), "fc": np.ones((2, 2))}, MaskError, "none of the 0 weights"),
    ],
)
def test_weights_that_cannot_be_pruned_are_refused_by_name(weights, error, match):
    with pytest.raises(error, match=match):
        prune.magnitude(weights, 0.5)


def test_names_that_are_not_there_are_refused():
    weights = network()
    with pytest.raises(MaskError, match="skip: there is no layer 'conv9'; there are 'conv1'"):
        prune.magnitude(weights, 0.5, skip=["conv9"])
    with pytest.raises(MaskError, match="include: there is no layer 'conv9'"):
        prune.magnitude(weights, 0.5, include=["conv9"])
    with pytest.raises(MaskError, match="'conv1' is in both skip and include"):
        prune.magnitude(weights, 0.5, skip=["conv1"], include=["conv1"])
    with pytest.raises(TypeError, match="skip must hold layer names, got the one name 'conv1'"):
        prune.magnitude(weights, 0.5, skip="conv1")
    with pytest.raises(MaskError, match="across must be one of global, uniform, erk, lamp, got"):
        prune.magnitude(weights, 0.5, across="layer")


def test_weights_that_the_graph_does_not_have_are_refused():
    network, weights = graph()
    with pytest.raises(MaskError, match="the graph has no layer 'more'; there are 'stem'"):
        prune.magnitude(weights | {"more": np.ones((2, 2))}, 0.5, graph=network)
    other, _ = graph([f"/{name}/Conv" for name in weights])
    with pytest.raises(MaskError, match="the graph has no layer 'stem'; there are '/stem/Conv'"):
        prune.magnitude(weights | {"more": np.ones((2, 2))}, 0.5, graph=other)
    with pytest.raises(MaskError, match=r"layer 'fc': expected weights of shape \(5, 48\), got"):
        prune.magnitude(weights | {"fc": np.ones((5, 40))}, 0.5, graph=network)


# At random


@pytest.mark.parametrize("across", ["global", "uniform", "erk"])
def test_random_masks_keep_what_the_law_says_at_places_that_follow_from_the_seed(across):
    weights = network()
    found = [
        prune.random(weights, 0.3, seed=seed, across=across, include=["matrix"])
        for seed in (0, 0, 1)
    ]
    assert all(np.array_equal(found[0][n], found[1][n]) for n in weights)
    assert not all(np.array_equal(found[0][n], found[2][n]) for n in weights)
    assert sum(mask.sum() for mask in found[0].values()) == number(SHAPES.values(), 0.3)
    if across != "global":
        by_size = pruned(weights, 0.3, across)
        assert all(found[0][n].sum() == by_size[n].sum() for n in weights)
    other = {name: -5 * w for name, w in weights.items()}
    again = prune.random(other, 0.3, across=across, include=["matrix"])
    assert all(np.array_equal(found[0][n], again[n]) for n in weights)


def test_random_places_are_all_alike():
    weights = {"a": np.zeros((10, 10)), "b": np.zeros((5, 10)), "fc": np.zeros((2, 5))}
    kept = {"a": np.zeros((10, 10)), "b": np.zeros((5, 10))}
    for seed in range(400):
        masks = prune.random(weights, 0.2, seed=seed)
        for name, times in kept.items():
            times += masks[name]
    # 400 draws of 0.2: mean 80, standard deviation 8.
    assert abs(np.concatenate([one.ravel() for one in kept.values()]).mean() - 80) < 1e-9
    assert all(one.min() > 40 and one.max() < 120 for one in kept.values())
    assert abs(kept["a"].mean() - kept["b"].mean()) < 3


def test_random_masks_like_others_keep_as_many_in_each_layer():
    weights = network()
    like = pruned(weights, 0.2, "lamp")
    masks = prune.random(weights, layerwise_like=like, include=["matrix"])
    assert all(masks[name].sum() == like[name].sum() for name in weights)
    assert not any(np.array_equal(masks[name], like[name]) for name in weights)


def test_random_wishes_that_make_no_sense_are_refused():
    weights = network()
    like = pruned(weights, 0.2, "lamp")
    for options in ({}, {"density": 0.5, "layerwise_like": like}):
        with pytest.raises(TypeError, match="give one of density and layerwise_like"):
            prune.random(weights, **options)
    with pytest.raises(MaskError, match="across must be one of global, uniform, erk, got 'lamp'"):
        prune.random(weights, 0.5, across="lamp")
    with pytest.raises(MaskError, match="seed must be at least 0, got -1"):
        prune.random(weights, 0.5, seed=-1)
    with pytest.raises(MaskError, match="layerwise_like has no mask of layer 'conv1'"):
        prune.random(weights, layerwise_like={"conv2": like["conv2"]})
    with pytest.raises(MaskError, match=r"layer 'conv1': expected a mask of shape \(8, 6, 3, 3\)"):
        prune.random(weights, layerwise_like=like | {"conv1": like["conv2"]})
    with pytest.raises(MaskError, match="layerwise_like: layer 'conv1': expected a mask of 0 and"):
        prune.random(weights, layerwise_like=like | {"conv1": weights["conv1"]})
