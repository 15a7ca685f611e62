"""Whole networks: which layers, within which budget, on any executor, interrupted or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from masktools import BlockLayout, convert, pool, refill, regroup
from masktools.errors import FormatError, GraphError, MaskError, MasktoolsError, PartitionError
from masktools.finished import FOLDER
from masktools.graph import Graph, Node, Value
from masktools.result import Conversion, load_layouts

FAST = {"partitioner": "spectral", "group_rows": 4, "progress": False}


class Inline(Executor):
    """Runs a job when it is submitted; `fail` maps a layer to what its job raises."""

    def __init__(self, fail=None):
        self.fail = fail or {}
        self.layers = []

    def submit(self, function, job):
        future = Future()
        self.layers.append(job.layer)
        if job.layer in self.fail:
            future.set_exception(self.fail[job.layer])
        else:
            future.set_result(function(job))
        return future


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


def saved(result, folder):
    """Return the bytes of the files that must not depend on how the result was found."""
    result.save(folder)
    return [(folder / name).read_bytes() for name in ("masks.safetensors", "layouts.safetensors")]


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


def test_a_graph_says_which_layers_stay_dense():
    masks, weights = network()
    weights = {"wide": np.ones((3, 3, 1, 1), np.float32), **weights}
    masks = {**masks, "wide": np.eye(3, dtype=bool).reshape(3, 3, 1, 1)}
    result = convert(masks, weights, method="regroup", graph=graph_of(weights), **FAST)
    reasons = {row.layer: row.dense_because for row in result.report if row.dense_because}
    assert reasons == {"wide": "the first layer", "fc": "the classifier"}


def test_depthwise_convolutions_stay_dense_with_or_without_a_graph():
    masks, weights = network()
    del masks["conv3"], weights["conv3"]
    weights = {
        "stem": weights["stem"],
        "deep": np.ones((8, 1, 3, 3), np.float32),
        "conv1": weights["conv1"],
    }
    masks = {"deep": np.arange(72).reshape(8, 1, 3, 3) % 2 == 0, "conv1": masks["conv1"]}
    graph = graph_of(weights, groups={"deep": 8})
    with_graph = convert(masks, weights, method="refill", graph=graph)
    assert with_graph.report[0].dense_because == "a depthwise convolution"
    without = convert(masks, weights, method="refill")
    assert without.report[0].dense_because.startswith("taken for the first layer or depthwise")


def test_layers_are_named_to_be_skipped_or_converted():
    masks, weights = network()
    result = convert(
        masks, weights, method="regroup", skip=["conv1"], include=["stem", "fc"], **FAST
    )
    assert list(result.layouts) == ["stem", "conv2", "conv3", "fc"]
    assert result.report[1].dense_because == "named in skip"


def test_a_mask_that_keeps_everything_stays_dense_unless_named():
    masks, weights = network()
    masks["conv2"] = np.ones_like(masks["conv2"])
    result = convert(masks, weights, method="refill", density=0.5)
    assert result.report[2].dense_because == "the mask keeps every weight"
    assert "conv2" in convert(masks, weights, method="refill", include=["conv2"]).layouts


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


@pytest.mark.parametrize(("method", "extra"), [("refill", 0.0), ("refill-plus", 0.3)])
def test_without_a_density_each_layer_is_refilled_as_alone(method, extra):
    masks, weights = network()
    result = convert(masks, weights, method=method, extra=extra, criterion="count")
    for name in result.layouts:
        alone = refill(masks[name], weights[name], extra=extra, criterion="count")
        assert np.array_equal(result.masks[name], alone)


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
    options = FAST if method == "regroup" else {}
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
    result = convert(masks, weights, method="refill", density=3 / 8, **options)
    kept = {name: np.flatnonzero(mask.any(axis=1)).tolist() for name, mask in result.masks.items()}
    assert kept == {"a": [0, 2, 3], "b": []}


def test_a_layer_that_loses_everything_is_noted():
    weights = {"a": np.full((4, 2), 9.0), "b": np.full((4, 2), 0.1)}
    masks = {name: np.eye(4, 2, dtype=bool) for name in weights}
    result = convert(masks, weights, method="refill", density=0.25, include=["a", "b"])
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


# Executors


def test_every_executor_gives_the_same_bytes(tmp_path, monkeypatch):
    masks, weights = network()
    arguments = {"method": "regroup", "density": 0.2, "partitioner": "best", "group_rows": 4}
    monkeypatch.setattr(pool, "cores", lambda: 1)
    serial = convert(masks, weights, **arguments)
    found = {"serial": serial}
    with ThreadPoolExecutor(3) as threads:
        found["threads"] = convert(masks, weights, executor=threads, **arguments)
        assert threads.submit(int, 1).result() == 1
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        found["processes"] = convert(masks, weights, executor=processes, **arguments)
    monkeypatch.setattr(pool, "cores", lambda: 2)
    found["default"] = convert(masks, weights, **arguments)
    found["inline"] = convert(masks, weights, executor=Inline(), **arguments)
    bytes_of = {name: saved(result, tmp_path / name) for name, result in found.items()}
    assert [name for name in found if bytes_of[name] != bytes_of["serial"]] == []


@pytest.mark.parametrize("as_file", [True, False])
def test_a_script_without_a_main_guard_can_use_the_default_processes(tmp_path, as_file):
    script = """
import numpy as np, masktools
print("once")
masks = {name: np.eye(8, 16, dtype=bool) for name in ("a", "b", "c")}
result = masktools.convert(masks, method="regroup", partitioner="spectral", group_rows=4)
print(len(result.layouts))
"""
    path = tmp_path / "script.py"
    path.write_text(script)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path) if as_file else "-"],
        input=None if as_file else script,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LOKY_MAX_CPU_COUNT": "2"},
    )
    assert (done.stdout, done.stderr) == ("once\n2\n", "")


def test_numerical_libraries_run_on_one_thread_during_a_layer():
    import scipy.linalg  # noqa: F401

    before = [library["num_threads"] for library in threadpool_info()]
    with pool._one_thread:
        with pool._one_thread:
            pass
        assert {library["num_threads"] for library in threadpool_info()} == {1}
    assert [library["num_threads"] for library in threadpool_info()] == before


def test_an_executor_must_be_one():
    masks, weights = network()
    with pytest.raises(TypeError, match="expected an Executor, got int"):
        convert(masks, weights, method="regroup", executor=4)


# Failures and resumption


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PartitionError("it gave up"), PartitionError),
        (MemoryError("too large"), MasktoolsError),
        (BrokenProcessPool("a worker died"), MasktoolsError),
    ],
)
def test_a_failing_layer_is_named_and_the_others_are_kept(tmp_path, error, kind):
    masks, weights = network()
    arguments = {"method": "regroup", "resume": tmp_path / "result", **FAST}
    first = Inline(fail={"conv3": error})
    with pytest.raises(kind, match="layer 'conv3'"):
        convert(masks, weights, executor=first, **arguments)
    second = Inline()
    result = convert(masks, weights, executor=second, **arguments)
    assert second.layers == ["conv3"]
    assert {row.layer: row.resumed for row in result.report if not row.dense_because} == {
        "conv1": True,
        "conv2": True,
        "conv3": False,
    }
    fresh = convert(masks, weights, method="regroup", **FAST)
    assert saved(result, tmp_path / "result") == saved(fresh, tmp_path / "fresh")
    assert not (tmp_path / "result" / FOLDER).exists()


def test_an_interrupt_keeps_what_is_done(tmp_path, monkeypatch):
    masks, weights = network()
    monkeypatch.setattr(pool, "cores", lambda: 1)
    find, calls, again = pool.find, [], []

    def interrupted(job):
        calls.append(job.layer)
        if len(calls) == 3 and not again:
            raise KeyboardInterrupt
        return find(job)

    monkeypatch.setattr(pool, "find", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(masks, weights, method="regroup", resume=tmp_path, **FAST)
    again.append(True)
    third = calls.pop()
    convert(masks, weights, method="regroup", resume=tmp_path, **FAST)
    assert calls[2:] == [third]


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"group_rows": 8}, {"density": 0.1}, {"partitioner": "kahypar"}]
)
def test_another_wish_finds_nothing_to_resume(tmp_path, change):
    masks, weights = network()
    convert(masks, weights, method="regroup", resume=tmp_path, **FAST)
    again = Inline()
    arguments = {**FAST, **change}
    convert(masks, weights, method="regroup", resume=tmp_path, executor=again, **arguments)
    assert sorted(again.layers) == ["conv1", "conv2", "conv3"]


def test_another_weight_is_found_again(tmp_path):
    masks, weights = network()
    convert(masks, weights, method="regroup", resume=tmp_path, **FAST)
    kept = tuple(np.argwhere(masks["conv1"])[0])
    weights["conv1"][kept] += 1
    again = Inline()
    convert(masks, weights, method="regroup", resume=tmp_path, executor=again, **FAST)
    assert again.layers == ["conv1"]


@pytest.mark.parametrize("damage", ["cut", "flip", "other", "empty"])
def test_a_damaged_file_is_found_again_and_noted(tmp_path, damage):
    masks, weights = network()
    convert(masks, weights, method="regroup", resume=tmp_path, **FAST)
    files = sorted((tmp_path / FOLDER).iterdir())
    content = files[0].read_bytes()
    files[0].write_bytes(
        {
            "cut": content[:-20],
            "flip": content[:-1] + bytes([content[-1] ^ 1]),
            "other": b"\x08\0\0\0\0\0\0\0" + b'{"a":1} ',
            "empty": b"",
        }[damage]
    )
    again = Inline()
    result = convert(masks, weights, method="regroup", resume=tmp_path, executor=again, **FAST)
    assert len(again.layers) == 1
    assert result.report.notes == (
        f"layer {again.layers[0]!r}: the file of its row groups was damaged; they were found again",
    )
    assert files[0].read_bytes() == content


# The result folder


def test_a_saved_result_comes_back(tmp_path):
    masks, weights = network()
    result = convert(masks, weights, method="regroup", density=0.2, graph=graph_of(weights), **FAST)
    result.save(tmp_path / "new" / "result")
    again = Conversion.load(tmp_path / "new" / "result")
    assert again.report == result.report
    assert again.layouts == result.layouts
    assert list(again.layouts) == list(result.layouts)
    assert all(np.array_equal(again.masks[name], mask) for name, mask in result.masks.items())
    assert load_layouts(tmp_path / "new" / "result") == result.layouts
    assert load_layouts(tmp_path / "new" / "result" / "layouts.safetensors") == result.layouts


def test_a_result_replaces_a_result_and_nothing_else(tmp_path):
    masks, weights = network()
    first = convert(masks, weights, method="refill")
    second = convert(masks, weights, method="refill", density=0.2)
    first.save(tmp_path / "result")
    (tmp_path / "result" / "diary.txt").write_text("kept")
    second.save(tmp_path / "result")
    assert Conversion.load(tmp_path / "result").report == second.report
    assert sorted(p.name for p in (tmp_path / "result").iterdir()) == [
        "diary.txt",
        "layouts.safetensors",
        "masks.safetensors",
        "report.json",
    ]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "masks.safetensors").write_text("mine")
    for place in (tmp_path / "other", tmp_path / "other" / "masks.safetensors"):
        with pytest.raises(FormatError, match=r"not a result of masktools|is a file"):
            first.save(place)
        with pytest.raises(FormatError):
            convert(masks, weights, method="regroup", resume=place, **FAST)
    assert (tmp_path / "other" / "masks.safetensors").read_text() == "mine"


def test_a_failing_save_leaves_the_earlier_result(tmp_path, monkeypatch):
    masks, weights = network()
    first = convert(masks, weights, method="refill")
    first.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("masktools.result._render_report", full)
    with pytest.raises(OSError, match="No space"):
        convert(masks, weights, method="refill", density=0.1).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_result_that_was_tampered_with_is_refused(tmp_path):
    masks, weights = network()
    convert(masks, weights, method="refill").save(tmp_path / "a")
    convert(masks, weights, method="refill", density=0.1).save(tmp_path / "b")
    layouts = (tmp_path / "b" / "layouts.safetensors").read_bytes()
    (tmp_path / "a" / "layouts.safetensors").write_bytes(layouts)
    with pytest.raises(FormatError, match=r"layouts.safetensors is not the file"):
        Conversion.load(tmp_path / "a")
    (tmp_path / "a" / "layouts.safetensors").unlink()
    with pytest.raises(FormatError, match="No such file"):
        Conversion.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda data: data.update(format="other"), "not a report of masktools"),
        (lambda data: data.update(version=2), "version 2, but 1 is read"),
        (lambda data: data.pop("files"), "is not the file that"),
        (lambda data: data.pop("total"), "KeyError"),
        (lambda data: data["layers"][1].update(kept="many"), "kept is 'many'"),
        (lambda data: data["layers"][1].update(layer="else"), "differ about layer 'conv1'"),
        (lambda data: data["layers"].append(3), "not one of masktools"),
    ],
)
def test_a_report_that_is_not_one_is_refused(tmp_path, change, match):
    masks, weights = network()
    convert(masks, weights, method="refill").save(tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    change(data)
    (tmp_path / "report.json").write_text(json.dumps(data))
    with pytest.raises(FormatError, match=match):
        Conversion.load(tmp_path)


def test_layouts_that_are_none_are_refused(tmp_path):
    from safetensors.numpy import save_file

    layout = BlockLayout.from_mask(np.eye(3)).to_arrays()
    file = tmp_path / "layouts.safetensors"
    head = {"format": "masktools-layouts", "version": 1, "groups": {"a": 1}}
    for header, arrays, match in (
        (None, layout, "it holds no layouts"),
        ({**head, "version": 9}, layout, "version 9"),
        ({**head, "groups": ["a"]}, layout, "names no convolution groups"),
        (head, {"b.shape": layout["shape"]}, "'b.shape' belongs to no layer"),
        (head, {"a.shape": layout["shape"]}, "layer 'a': array 'row_indices' is missing"),
    ):
        metadata = None if header is None else {"masktools": json.dumps(header)}
        save_file(arrays, file, metadata)
        with pytest.raises(FormatError, match=match):
            load_layouts(file)
    file.write_bytes(b"nothing")
    with pytest.raises(FormatError, match=r"layouts\.safetensors"):
        load_layouts(file)
    with pytest.raises(FormatError, match="no such file"):
        load_layouts(tmp_path / "none")


# What is refused


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"masks": {}}, MaskError, "there are no masks"),
        ({"masks": [np.eye(3)]}, TypeError, "expected masks"),
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
        ({"group_rows": 8.0}, TypeError, "group_rows must be a whole number, got 8.0"),
        ({"seed": -1}, MaskError, "seed must be at least 0, got -1"),
        ({"group_rows": 0}, MaskError, "group_rows must be at least 1, got 0"),
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
def test_what_makes_no_sense_is_refused_before_any_work(change, error, match):
    masks, weights = network()
    arguments = {"masks": masks, "weights": weights, "method": "regroup", **change}
    executor = Inline()
    with pytest.raises(error, match=match):
        convert(**arguments, executor=executor)
    assert executor.layers == []


def test_a_mask_must_fit_the_graph():
    masks, weights = network()
    graph = graph_of(weights)
    with pytest.raises(MaskError, match="the graph has no layer 'conv7'; there are 'stem', 'c"):
        convert({"conv7": masks["conv1"]}, method="refill", graph=graph)
    with pytest.raises(MaskError, match=r"layer 'conv1': expected a mask of shape \(16, 8, 3, 3\)"):
        convert({"conv1": masks["conv2"]}, method="refill", graph=graph)
    weights["conv3"] = np.ones((16, 11, 1, 1), np.float32)
    with pytest.raises(GraphError):
        convert({"conv1": masks["conv1"]}, method="refill", graph=graph_of(weights))


def test_a_weight_that_does_not_fit_names_its_layer():
    masks, weights = network()
    weights["conv2"][0, 0, 0, 0] = np.nan
    with pytest.raises(MaskError, match="layer 'conv2': weights must be finite, got nan"):
        convert(masks, weights, method="refill")
