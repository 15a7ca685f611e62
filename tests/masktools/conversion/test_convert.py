"""Whole networks: within one budget, over every kind of layer, and what is refused."""

from __future__ import annotations

import dataclasses
import inspect
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from masktools import convert, refill, regroup
from masktools.conversion.convert import converted_layers
from masktools.conversion.options import Options
from masktools.conversion.result import Conversion
from masktools.errors import GraphError, MaskError
from masktools.network.graph import Graph, Node, Value

FAST = {"partitioner": "spectral", "group_rows": 4, "progress": False}


def network(seed=0):
    """Return masks and weights of a small network, with rows that share columns."""
    rng = np.random.default_rng(seed)
    masks, weights = {}, {}
    for name, shape, density in (
        ("stem", (8, 3, 3, 3), 0.9),
        ("conv1", (16, 8, 3, 3), 0.4),
        ("conv2", (12, 16, 3, 3), 0.2),
        ("conv3", (16, 12, 1, 1), 0.6),
        ("fc", (10, 16), 0.7),
    ):
        columns = rng.random((4, *shape[1:])) < density
        masks[name] = (columns[rng.integers(0, 4, shape[0])]) ^ (rng.random(shape) < 0.05)
        weights[name] = rng.standard_normal(shape).astype(np.float32)
    return masks, weights


def conv(name, x, y, kernel=3, stride=1, group=1):
    attributes = {
        "strides": (stride,) * 2,
        "pads": (kernel // 2,) * 4,
        "dilations": (1, 1),
        "group": group,
    }
    return Node(name, "Conv", (x, f"{name}.weight"), (y,), attributes)


def graph_of(weights, strides=None, groups=None):
    """Return the network as a graph: 8x8 images, strides and groups per layer."""
    nodes, x = [], "image"
    for name, weight in weights.items():
        if weight.ndim == 4:
            stride, group = (strides or {}).get(name, 1), (groups or {}).get(name, 1)
            nodes.append(conv(name, x, f"{name}_out", weight.shape[2], stride, group))
            x = f"{name}_out"
        else:
            nodes.append(Node("pool", "GlobalAveragePool", (x,), ("pooled",)))
            nodes.append(Node("flat", "Flatten", ("pooled",), ("flattened",), {"axis": 1}))
            nodes.append(
                Node(name, "Gemm", ("flattened", f"{name}.weight"), ("scores",), {"transB": 1})
            )
            x = "scores"
    first = next(iter(weights.values()))
    return Graph(
        (Value("image", (None, first.shape[1], 8, 8)),),
        (Value(x, (None, None)),),
        tuple(nodes),
        {f"{name}.weight": weight for name, weight in weights.items()},
    )


# Which layers


def test_first_layer_and_classifier_stay_dense_and_whole():
    masks, weights = network()
    result = convert(masks, weights, method="regroup", **FAST)
    assert list(result.layouts) == ["conv1", "conv2", "conv3"]
    assert list(result.masks) == list(masks)
    assert result.masks["stem"].all()
    assert result.masks["fc"].all()
    reasons = {row.layer: row.dense_because for row in result.report}
    assert reasons["stem"] == "taken for the first layer: no graph says otherwise"
    assert reasons["fc"] == "taken for the classifier: no graph says otherwise"
    assert result.report[0].density_after == 1.0
    assert result.report[0].retained == 1.0


def test_nothing_to_convert_is_refused_with_the_reasons():
    with pytest.raises(
        MaskError, match=r"nothing to convert, unless .* 'fc' .taken for the classifier"
    ):
        convert({"fc": np.eye(4)}, method="refill")


# Budgets


def test_without_a_density_each_layer_is_regrouped_as_alone():
    masks, weights = network()
    result = convert(masks, weights, method="regroup", **FAST)
    for name, layout in result.layouts.items():
        alone = regroup(masks[name], weights[name], group_rows=4, partitioner="spectral")
        assert layout.blocks == alone.blocks


@pytest.mark.parametrize(
    ("method", "given", "extra"),
    [
        ("refill", None, 0.0),
        ("refill", 0.0, 0.0),
        ("refill-plus", 0.3, 0.3),
        ("refill-plus", 0.0, 0.0),
        ("refill-plus", None, 0.2),
    ],
)
def test_without_a_density_each_layer_is_refilled_as_alone(method, given, extra):
    masks, weights = network()
    result = convert(masks, weights, method=method, extra=given, criterion="count")
    for name in result.layouts:
        alone = refill(masks[name], weights[name], extra=extra, criterion="count")
        assert np.array_equal(result.masks[name], alone)
    assert result.report.options["extra"] == extra


@pytest.mark.parametrize("method", ["regroup", "refill"])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.3, 0.9, 1.0])
def test_a_network_spends_no_more_than_its_density(method, density):
    masks, weights = network()
    options = FAST if method == "regroup" else {}
    result = convert(masks, weights, method=method, density=density, **options)
    total = result.report.converted
    assert total.stored <= density * total.weights
    assert total.stored == sum(layout.stored for layout in result.layouts.values())


@pytest.mark.parametrize("method", ["regroup", "refill"])
def test_one_budget_retains_more_than_the_same_density_everywhere(method):
    masks, weights = network()
    options = {**(FAST if method == "regroup" else {}), "across": "absolute"}
    for density in (0.15, 0.3, 0.5):
        together = convert(masks, weights, method=method, density=density, **options)
        alone = [
            convert({n: masks[n]}, weights, method=method, density=density, **options)
            for n in together.layouts
        ]
        retained = sum(one.report.converted.saliency_stored for one in alone)
        assert together.report.converted.saliency_stored > retained


def test_rows_of_all_layers_compete_by_what_they_retain():
    masks = {"a": np.ones((3, 4), bool), "b": np.ones((2, 4), bool), "fc": np.eye(2, dtype=bool)}
    masks["a"][:, 0] = masks["b"][:, 0] = False
    weights = {
        "a": np.array([[9, 1, 1, 1], [9, 5, 5, 5], [9, 2, 2, 2]], float),
        "b": np.array([[9, 3, 3, 3], [9, 4, 4, 4]], float),
        "fc": np.ones((2, 2)),
    }
    result = convert(masks, weights, method="refill", density=3 / 5)
    kept = {name: np.flatnonzero(mask[:, 0]).tolist() for name, mask in result.masks.items()}
    assert kept == {"a": [1], "b": [0, 1], "fc": [0, 1]}
    plus = convert(masks, weights, method="refill-plus", density=3 / 5, extra=0.5)
    assert np.flatnonzero(plus.masks["a"][:, 0]).tolist() == [1, 2]


def test_rows_follow_given_scores_and_their_number_the_saliency():
    # Best score first: the row without saliency buys its way in with the two behind it.
    weights = {"a": np.array([[6.0], [0.1], [0.0], [6.0]]), "b": np.full((4, 1), 3.5)}
    masks = {name: np.ones((4, 1), bool) for name in weights}
    scores = {"a": [2.0, 0.0, 9.0, 1.0], "b": [1.0, 2.0, 3.0, 4.0]}
    options = {"criterion": "first-order", "scores": scores, "include": ["a", "b"]}
    for across, expected in (
        ("absolute", {"a": [0, 2, 3], "b": []}),
        ("log-share", {"a": [0, 2], "b": [3]}),
    ):
        result = convert(masks, weights, method="refill", density=3 / 8, across=across, **options)
        kept = {n: np.flatnonzero(mask.any(axis=1)).tolist() for n, mask in result.masks.items()}
        assert kept == expected


def test_refill_keeps_the_same_rows_for_every_target():
    masks, weights = network()
    found = [
        convert(masks, weights, method="refill", density=0.3, target=target, progress=False).masks
        for target in ("cpu", "cuda", "cuda-tensor")
    ]
    for name, kept in found[0].items():
        assert all(np.array_equal(kept, other[name]) for other in found[1:])


def test_a_layer_that_loses_everything_is_noted():
    weights = {"a": np.full((4, 2), 9.0), "b": np.full((4, 2), 0.1)}
    masks = {name: np.eye(4, 2, dtype=bool) for name in weights}
    result = convert(
        masks, weights, method="refill", density=0.25, across="absolute", include=["a", "b"]
    )
    assert result.report.notes == ("layer 'b': nothing of it is left within the density",)


def test_multiplications_are_another_budget_than_weights():
    masks, weights = network()
    graph = graph_of(weights, strides={"conv2": 2, "conv3": 2})
    by = {
        unit: convert(masks, weights, method="regroup", density=0.2, by=unit, graph=graph, **FAST)
        for unit in ("weights", "multiplications")
    }
    mine = by["multiplications"].report.converted
    assert mine.multiplications_stored <= 0.2 * mine.multiplications
    assert by["weights"].report.converted.multiplication_density_after > 0.2
    assert mine.density_after > 0.2


def test_own_multiplications_are_the_budget_of_each_layer():
    masks, weights = network()
    result = convert(
        masks, weights, method="regroup", by="multiplications", graph=graph_of(weights), **FAST
    )
    for row in result.report:
        if not row.dense_because:
            assert row.multiplications_stored <= row.multiplications_kept


def test_the_limit_counts_the_whole_graph_and_taps_inside_the_image():
    masks, weights = network()
    graph = graph_of(weights)
    part = {name: masks[name] for name in ("conv1", "conv3")}
    total = convert(part, weights, method="refill", density=0.5, graph=graph).report.total
    inside = 22 * 22  # of a 3x3 window over 8x8 pixels: (8 + 7 + 7) squared
    dense = inside * (8 * 3 + 16 * 8 + 12 * 16) + 64 * 16 * 12 + 10 * 16
    assert total.multiplications == dense
    assert total.limit == dense / total.multiplications_stored > 1
    assert convert(part, weights, method="refill").report.total.limit is None


# Groups, kinds of layers, odd layers


def test_blocks_lie_in_one_convolution_group_each():
    rng = np.random.default_rng(0)
    weights = {
        "stem": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "grouped": rng.standard_normal((16, 4, 3, 3)).astype(np.float32),
        "deep": rng.standard_normal((16, 1, 3, 3)).astype(np.float32),
    }
    masks = {name: np.abs(w) > 0.8 for name, w in weights.items() if name != "stem"}
    graph = graph_of(weights, groups={"grouped": 2, "deep": 16})
    for method in ("regroup", "refill"):
        options = {**FAST, "group_rows": 3} if method == "regroup" else {}
        result = convert(
            masks, weights, method=method, density=0.4, graph=graph, include=["deep"], **options
        )
        assert result.layouts["grouped"].groups == 2
        assert result.layouts["deep"].groups == 16
    assert 0 < result.masks["deep"].any(axis=(1, 2, 3)).sum() < 16
    own = convert(masks, weights, method="refill", graph=graph)
    assert np.array_equal(
        own.masks["grouped"], refill(masks["grouped"], weights["grouped"], groups=2)
    )


@pytest.mark.parametrize("method", ["regroup", "refill"])
@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (6, 4, 3), (1, 4, 1, 1), (7, 5, 3, 3)])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_layers_of_every_shape(method, shape, share):
    mask = np.random.default_rng(0).random(shape) < share
    options = FAST if method == "regroup" else {}
    for density in (None, 0.5):
        result = convert({"a": mask}, method=method, density=density, include=["a"], **options)
        result.layouts["a"].check(full=True)
        assert result.masks["a"].shape == shape


def test_without_weights_every_kept_weight_counts_the_same():
    masks, _ = network()
    ones = {name: np.ones(mask.shape) for name, mask in masks.items()}
    result = convert(masks, method="regroup", density=0.2, **FAST)
    same = convert(masks, ones, method="regroup", density=0.2, **FAST)
    assert result.layouts == same.layouts


def test_arguments_are_left_alone():
    masks, weights = network()
    expected = convert(masks, weights, method="regroup", density=0.2, **FAST)
    for array in (*masks.values(), *weights.values()):
        array.flags.writeable = False
    again = convert(masks, weights, method="regroup", density=0.2, **FAST)
    assert again.layouts == expected.layouts


# Figures


def test_the_report_counts_what_the_layouts_hold():
    masks, weights = network()
    result = convert(masks, weights, method="regroup", density=0.25, **FAST)
    for row in result.report:
        if row.dense_because:
            continue
        layout, mask = result.layouts[row.layer], masks[row.layer]
        assert (row.rows, row.columns) == (layout.rows, layout.columns)
        assert (row.kept, row.stored) == (mask.sum(), layout.stored)
        assert row.fill == layout.fill(mask)
        assert row.residual == layout.residual(mask).sum()
        assert row.retained == pytest.approx(layout.retained(weights[row.layer] * mask))
        assert row.density_after == pytest.approx(layout.density)
        assert row.row_groups == -(-layout.rows // 4)
        assert row.partitioner == "spectral"
    total = result.report.total
    assert total.stored == sum(mask.sum() for mask in result.masks.values())
    assert json.loads(json.dumps(result.report.as_dict()))["layers"][0]["layer"] == "stem"


def test_the_report_keeps_what_was_asked_for(tmp_path):
    masks, weights = network()
    result = convert(
        masks, weights, method="refill", density=np.float32(0.25), seed=np.int64(3), skip={"conv2"}
    )
    result.save(tmp_path)
    options = Conversion.load(tmp_path).report.options
    assert (options["density"], options["seed"], options["skip"]) == (0.25, 3, ["conv2"])


def test_the_report_names_what_its_density_leaves_out():
    masks, weights = network()
    del masks["conv3"]
    result = convert(masks, weights, method="refill", graph=graph_of(weights), skip=["conv2"])
    assert result.report.excluded == {
        "stem": "the first layer",
        "conv2": "named in skip",
        "fc": "the classifier",
        "conv3": "it has no mask",
    }
    assert result.report.converted.weights == masks["conv1"].size
    alone = convert(masks, weights, method="refill", skip=["conv2"]).report.excluded
    assert list(alone) == ["stem", "conv2", "fc"]


@pytest.mark.parametrize("method", ["regroup", "refill"])
def test_the_cost_of_a_network_is_counted_by_both_conventions(method, tmp_path):
    masks, weights = network()
    graph = graph_of(weights, strides={"conv2": 2})
    options = FAST if method == "regroup" else {}
    result = convert(masks, weights, method=method, density=0.2, graph=graph, **options)
    cost = result.report.cost
    pixels = {"stem": 64, "conv1": 64, "conv2": 16, "conv3": 16, "fc": 1}
    assert cost["dense"].padded == sum(weights[name].size * n for name, n in pixels.items())
    assert cost["dense"].inside == result.report.total.multiplications
    assert cost["before"].padded == sum(masks[name].sum() * n for name, n in pixels.items())
    assert cost["before"].inside == result.report.total.multiplications_kept
    after = {name: mask.reshape(*mask.shape[:2], -1) for name, mask in result.masks.items()}
    live, padded = np.ones(3, bool), 0
    for name, mask in after.items():
        padded += mask[:, live].sum() * pixels[name]
        live = mask[:, live].any(axis=(1, 2))
    assert cost["after"].padded == padded
    assert cost["after"].inside <= result.report.total.multiplications_stored
    if method == "refill":
        assert padded < sum(mask.sum() * pixels[name] for name, mask in after.items())
    result.save(tmp_path)
    assert Conversion.load(tmp_path).report == result.report
    assert convert(masks, weights, method=method, **options).report.cost is None


def test_names_of_masks_need_not_be_those_of_the_graph():
    masks, weights = network()
    graph = graph_of(weights)
    expected = convert(masks, weights, method="refill", graph=graph).report
    other, held = ({f"model.{n}": a for n, a in given.items()} for given in (masks, weights))
    found = convert(other, held, method="refill", graph=graph).report
    assert found.cost == expected.cost
    assert list(found.excluded) == ["model.stem", "model.fc"]


# Saliency from inputs


@pytest.mark.parametrize("saliency", ["input", "error"])
@pytest.mark.parametrize("method", ["regroup", "refill"])
def test_saliency_from_inputs_is_that_of_weights_times_norms(method, saliency):
    masks, weights = network()
    rng = np.random.default_rng(1)
    norms = {
        n: rng.random((1, w[0].size)).astype(np.float32) ** 4
        for n, w in weights.items()
        if n.startswith("conv")
    }
    options = {"method": method, "density": 0.15, **(FAST if method == "regroup" else {})}
    found = convert(masks, weights, saliency=saliency, norms=norms, **options)
    by_hand = dict(weights)
    for name, norm in norms.items():
        wide = norm.astype(np.float64).reshape(1, *weights[name].shape[1:])
        by_hand[name] = np.abs(weights[name]) * wide
        by_hand[name] = by_hand[name] ** (2 if saliency == "error" else 1)
    same = convert(masks, by_hand, **options)
    assert found.layouts == same.layouts
    assert found.layouts != convert(masks, weights, **options).layouts
    assert found.report.options["saliency"] == saliency
    for row, other in zip(found.report, same.report, strict=True):
        assert row.retained == pytest.approx(other.retained, rel=1e-5)


def test_groups_of_a_convolution_have_norms_of_their_own():
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.standard_normal((8, 8, 3, 3)).astype(np.float32),
        "b": rng.standard_normal((16, 4, 1, 1)).astype(np.float32),
    }
    masks = {name: rng.random(w.shape) < 0.7 for name, w in weights.items()}
    graph = graph_of(weights, groups={"b": 2})
    norms = {"b": np.array([[1, 0, 1, 0], [0, 1, 0, 1]])}
    result = convert(
        masks, weights, method="regroup", graph=graph, saliency="input", norms=norms, **FAST
    )
    stored = result.masks["b"].reshape(2, 8, 4).any(axis=1)
    assert np.array_equal(stored, norms["b"] > 0)


def test_the_layers_to_convert_are_known_before():
    masks, weights = network()
    graph = graph_of(weights)
    for skip, include in (((), ()), (["conv2"], ["fc"])):
        result = convert(masks, weights, method="refill", graph=graph, skip=skip, include=include)
        assert converted_layers(masks, graph, skip, include) == list(result.layouts)


# What is refused


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"masks": {}}, MaskError, "there are no masks"),
        ({"masks": [np.eye(3)]}, TypeError, "masks must be a mapping by layer, got list"),
        ({"weights": np.eye(3)}, TypeError, "weights must be a mapping by layer, got ndarray"),
        ({"masks": {"conv1": np.full((3, 3), 2)}}, MaskError, "layer 'conv1': expected a mask"),
        ({"masks": {"conv1": np.array([["a"]])}}, TypeError, "layer 'conv1': expected a mask"),
        ({"weights": {"conv2": np.eye(3)}}, MaskError, "'stem' has a mask but no weights; there"),
        ({"skip": ["conv9"]}, MaskError, "skip: there is no layer 'conv9'; there are 'stem', 'c"),
        ({"skip": "conv1"}, TypeError, "skip must hold layer names"),
        ({"skip": ["fc"], "include": ["fc"]}, MaskError, "'fc' is in both skip and include"),
        ({"method": "prune"}, MaskError, "method must be one of regroup, refill, refill-plus"),
        ({"by": "flops"}, MaskError, "by must be one of weights, multiplications"),
        ({"by": "multiplications"}, TypeError, "needs a graph"),
        ({"density": 2}, MaskError, "density must be between 0 and 1, got 2"),
        ({"extra": 0.5}, TypeError, "extra belongs to method 'refill-plus', not to 'regroup'"),
        ({"criterion": "count"}, TypeError, "regroup picks no rows"),
        ({"method": "refill", "group_rows": 8}, TypeError, "group_rows belongs to method"),
        ({"method": "refill", "partitioner": "best"}, TypeError, "partitioner belongs to method"),
        ({"group_rows": 8.0}, TypeError, "group_rows must be a whole number, got 8.0"),
        ({"seed": -1}, MaskError, "seed must be at least 0, got -1"),
        ({"group_rows": 0}, MaskError, "group_rows must be at least 1, got 0"),
        ({"saliency": "size"}, MaskError, "saliency must be one of magnitude, input, error"),
        ({"saliency": "error"}, TypeError, "saliency='error' needs the norms of columns"),
        ({"norms": {}}, TypeError, "saliency='magnitude' takes no norms of columns"),
        ({"saliency": "input", "norms": 3}, TypeError, "norms must be a mapping by layer, got int"),
        (
            {"saliency": "input", "norms": {}, "weights": None},
            TypeError,
            "saliency='input' needs weights",
        ),
        (
            {"saliency": "input", "norms": {"conv2": [[1]]}},
            MaskError,
            "layer 'conv1' has no norms of columns; there are 'conv2'",
        ),
        (
            {"saliency": "input", "norms": {"conv1": [[1]]}},
            MaskError,
            r"layer 'conv1': expected norms of shape \(groups, columns\) = \(1, 72\), got \(1, 1\)",
        ),
        ({"target": "tpu"}, MaskError, "target must be one of cpu, cuda, cuda-tensor"),
        ({"partitioner": "metis"}, MaskError, "partitioner"),
        (
            {"method": "refill", "criterion": "feature-l2", "scores": {"conv1": [1] * 16}},
            MaskError,
            "layer 'conv2' has no scores; there are 'conv1'",
        ),
        (
            {"method": "refill", "criterion": "feature-l2", "scores": {"conv1": [1]}},
            MaskError,
            "layer 'conv1': expected a score for each of 16 rows",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(change, error, match, monkeypatch):
    masks, weights = network()
    arguments = {"masks": masks, "weights": weights, "method": "regroup", **change}
    with ThreadPoolExecutor(1) as executor, monkeypatch.context() as patch:
        patch.setattr(executor, "submit", lambda *_: pytest.fail("work was done"))
        with pytest.raises(error, match=match):
            convert(**arguments, executor=executor)


def test_a_network_whose_shapes_do_not_fit_is_refused():
    masks, weights = network()
    weights["conv3"] = np.ones((16, 11, 1, 1), np.float32)
    with pytest.raises(GraphError):
        convert({"conv1": masks["conv1"]}, method="refill", graph=graph_of(weights))


def test_a_weight_that_does_not_fit_names_its_layer():
    masks, weights = network()
    weights["conv2"][0, 0, 0, 0] = np.nan
    with pytest.raises(
        MaskError, match="layer 'conv2': weights must be finite in float32, got nan"
    ):
        convert(masks, weights, method="refill")


def test_options_left_out_are_those_of_convert():
    defaults = inspect.signature(convert).parameters
    for field in dataclasses.fields(Options):
        if field.name != "method":
            assert field.default == defaults[field.name].default, field.name
