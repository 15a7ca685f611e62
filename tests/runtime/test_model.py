"""Loading and calling models: what comes in, what is refused, and calls from threads."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from paths import GOLDEN

import runtime
from masktools.checkpoint import Checkpoint, read, write
from masktools.errors import FormatError
from masktools.network.graph import Graph, Node, Value
from runtime import backend
from runtime.cpu.backend import CpuBackend
from runtime.errors import BackendUnavailable, InputError, PlanError
from runtime.model import KEPT_SHAPES, Model
from runtime.plan import plan
from runtime.reference.backend import ReferenceBackend


@pytest.fixture(params=["reference", "cpu"])
def model(request: pytest.FixtureRequest) -> Any:
    try:
        return runtime.load(GOLDEN / "minimal.safetensors", backend=request.param)
    except BackendUnavailable as error:
        return pytest.skip(str(error))


X = np.array([[1, 2, 3, 4], [0, 0, 0, 1]], np.float32)
Y = [[10.5, 5.0, 21.5], [2.5, 0.0, 3.5]]


def test_a_call_gives_what_the_document_says(model):
    assert model(X).tolist() == Y
    assert model({"x": X}).tolist() == Y
    assert model(X).dtype == np.float32


def test_a_model_shows_itself_in_a_line(model):
    name = model.backend.name
    assert repr(model) == f"Model(x (N, 4) -> y (N, 3), steps: 1, backend: {name})"


def test_float64_computes_wider_and_returns_float32():
    wide = runtime.load(GOLDEN / "minimal.safetensors", backend="reference", dtype="float64")
    assert wide(X).dtype == np.float32
    assert wide(X).tolist() == Y


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 64])
def test_any_batch_gives_the_same_samples(model, batch):
    x = np.random.default_rng(0).standard_normal((batch, 4)).astype(np.float32)
    each = np.concatenate([model(x[i : i + 1]) for i in range(batch)])
    np.testing.assert_allclose(model(x), each, rtol=1e-6, atol=1e-6)


def test_executables_are_kept_by_shape_and_not_without_end(model):
    for batch in range(1, 2 * KEPT_SHAPES):
        model(np.zeros((batch, 4), np.float32))
    assert len(model._compiled) == KEPT_SHAPES
    kept = model._compiled[((2 * KEPT_SHAPES - 1, 4),)]
    model(np.zeros((2 * KEPT_SHAPES - 1, 4), np.float32))
    assert model._compiled[((2 * KEPT_SHAPES - 1, 4),)] is kept


def test_golden_file_of_halves_runs():
    """Two groups, shared float16 weights, a clip between: against the products written out."""
    halves = runtime.load(GOLDEN / "halves.safetensors")
    weight = read(GOLDEN / "halves.safetensors").sparse["conv"].to_dense().astype(np.float64)
    x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)

    def conv(values: Any) -> Any:
        padded = np.pad(values, ((0, 0), (0, 0), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, 3, axis=2)
        halves = [(windows[:, :2], weight[:2]), (windows[:, 2:], weight[2:])]
        return np.concatenate([np.einsum("ncpk,rck->nrp", w, r) for w, r in halves], axis=1)

    wanted = conv(np.minimum(conv(x), 6) / 2)
    np.testing.assert_allclose(halves(x), wanted, rtol=1e-5, atol=1e-4)
    assert [row.operator for row in halves.profile(x)] == ["Conv+Clip", "Mul", "Conv"]


# --- several inputs and outputs ----------------------------------------------------------------


def two_by_two() -> Model:
    graph = Graph(
        (Value("a", (None, 3)), Value("b", (None, 3))),
        (Value("sum", (None, 3)), Value("big", (None, 3))),
        (
            Node("add", "Add", ("a", "b"), ("sum",), {}),
            Node("clip", "Clip", ("b",), ("big",), {"min": 1.0}),
        ),
    )
    return Model(plan.build(Checkpoint(graph)), ReferenceBackend())


def test_several_inputs_and_outputs_go_by_name():
    a, b = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    got = two_by_two()({"b": b, "a": a})
    assert list(got) == ["sum", "big"]
    assert (got["sum"] == 1).all()
    assert (got["big"] == 1).all()


def test_inputs_that_do_not_belong_together_are_refused():
    a, b = np.ones((2, 3), np.float32), np.zeros((3, 3), np.float32)
    with pytest.raises(InputError, match=r"one batch, got \[2, 3\]"):
        two_by_two()({"a": a, "b": b})
    for given in (a, {"a": a}, {"a": a, "b": a, "c": a}):
        with pytest.raises(InputError, match=r"expected inputs named \['a', 'b'\]"):
            two_by_two()(given)


@pytest.mark.parametrize("backend", [ReferenceBackend, CpuBackend])
def test_an_output_may_be_an_input_of_the_network_or_another_output(backend):
    graph = Graph(
        (Value("x", (None, 3)),),
        (Value("same", (None, 3)), Value("again", (None, 3))),
        (
            Node("i", "Identity", ("x",), ("same",), {}),
            Node("j", "Identity", ("same",), ("again",), {}),
        ),
    )
    x = np.ones((2, 3), np.float32)
    got = Model(plan.build(Checkpoint(graph)), backend())(x)
    got["same"][:] = 5
    assert (x == 1).all()
    assert (got["again"] == 1).all()


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "error", "reason"),
    [
        (X.astype(np.float64), TypeError, r"input 'x': expected float32, got float64"),
        (X.astype(np.int64), TypeError, r"expected float32, got int64"),
        (X.tolist(), TypeError, r"expected an array, got list"),
        (None, TypeError, r"expected an array, got NoneType"),
        (torch.from_numpy(X), TypeError, r"got Tensor; call \.detach\(\)\.cpu\(\)\.numpy\(\)"),
        (SimpleNamespace(dtype="float32", shape=(2, 4)), TypeError, r"got SimpleNamespace"),
        (X[:, :3], InputError, r"input 'x': expected shape \(N, 4\), got \(2, 3\)"),
        (X[0], InputError, r"expected shape \(N, 4\), got \(4,\)"),
        (X[None], InputError, r"expected shape \(N, 4\), got \(1, 2, 4\)"),
        (X[:0], InputError, r"expected shape \(N, 4\), got \(0, 4\)"),
        ({"y": X}, InputError, r"expected inputs named \['x'\], got \['y'\]"),
    ],
)
def test_other_inputs_are_refused(model, x, error, reason):
    with pytest.raises(error, match=reason):
        model(x)
    with pytest.raises(error, match=reason):
        model.profile(x)


def test_a_fixed_batch_takes_no_other():
    values = (Value("x", (2, 3)),), (Value("y", (2, 3)),)
    graph = Graph(*values, (Node("r", "Relu", ("x",), ("y",), {}),))
    fixed = Model(plan.build(Checkpoint(graph)), ReferenceBackend())
    assert fixed(np.ones((2, 3), np.float32)).shape == (2, 3)
    with pytest.raises(InputError, match=r"expected shape \(2, 3\), got \(3, 3\)"):
        fixed(np.ones((3, 3), np.float32))


def test_load_refuses():
    path = GOLDEN / "minimal.safetensors"
    for name in ("auto", "reference"):
        with pytest.raises(PlanError, match="float16"):
            runtime.load(path, backend=name, dtype="float16")
    for threads in (0, -1, 1.5, True):
        with pytest.raises(PlanError, match="threads must be a positive integer"):
            runtime.load(path, threads=threads)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        runtime.load(GOLDEN / "none.safetensors")
    with pytest.raises(FormatError, match=r"make_golden.py: not a safetensors file"):
        runtime.load(GOLDEN / "make_golden.py")


# --- backends ----------------------------------------------------------------------------------


def test_an_unknown_backend_is_refused_with_those_there_are():
    with pytest.raises(BackendUnavailable, match=r"'tpu' does not exist; there are: .*reference"):
        runtime.load(GOLDEN / "minimal.safetensors", backend="tpu")


class Absent(ReferenceBackend):
    """A backend whose machine is missing."""

    name = "absent"

    def available(self) -> backend.Availability:
        return backend.Availability(False, "install something")


class Present(ReferenceBackend):
    """A backend that is better than the reference."""

    name = "present"


def test_auto_takes_the_best_that_can_run(monkeypatch, caplog):
    path = GOLDEN / "minimal.safetensors"
    for made in (Absent, Present):
        monkeypatch.setattr(
            sys.modules["runtime.reference.backend"], made.__name__, made, raising=False
        )
    absent = {"absent": "runtime.reference.backend:Absent"}
    reference = {"reference": "runtime.reference.backend:ReferenceBackend"}
    present = {"present": "runtime.reference.backend:Present"}
    monkeypatch.setattr(backend, "BACKENDS", absent | present | reference)
    with caplog.at_level("INFO"):
        assert runtime.load(path).backend.name == "present"
    assert (
        "'present' is taken; better ones cannot run here: absent: install something" in caplog.text
    )
    monkeypatch.setattr(backend, "BACKENDS", absent | reference)
    with pytest.warns(RuntimeWarning, match="'reference' is taken.*absent: install something"):
        assert runtime.load(path).backend.name == "reference"
    with pytest.raises(BackendUnavailable, match="'absent' cannot run here: install something"):
        runtime.load(path, backend="absent")
    monkeypatch.setattr(backend, "BACKENDS", absent)
    with pytest.raises(BackendUnavailable, match="no backend can run here: absent: install"):
        runtime.load(path)


# --- profile, threads, imports -----------------------------------------------------------------


def test_profile_has_a_row_for_each_step(model):
    (row,) = model.profile(X)
    assert (row.name, row.operator) == ("fc", "Gemm")
    assert (row.inputs, row.output) == (((2, 4),), (2, 3))
    assert (row.density, row.multiplications) == (5 / 12, 10)
    assert row.seconds > 0


def test_threads_share_a_model():
    """Many threads, many batch sizes, fewer kept shapes than shapes: each gets its own answer."""
    random = np.random.default_rng(0)
    window = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1), "group": 1}
    nodes = (
        Node("a", "Conv", ("x", "a.weight"), ("a",), window),
        Node("b", "Relu", ("a",), ("b",), {}),
        Node("c", "Add", ("b", "x"), ("y",), {}),
    )
    weight = random.standard_normal((4, 4, 3, 3)).astype(np.float32)
    values = (Value("x", (None, 4, 6, 6)),), (Value("y", (None, 4, 6, 6)),)
    checkpoint = Checkpoint(Graph(*values, nodes, {"a.weight": weight}))
    shared = Model(plan.build(checkpoint), ReferenceBackend())
    inputs = [
        random.standard_normal((1 + i % (KEPT_SHAPES + 3), 4, 6, 6)).astype(np.float32)
        for i in range(64)
    ]
    wanted = [Model(shared.plan, ReferenceBackend())(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for got, want in zip(pool.map(shared, inputs), wanted, strict=True):
            np.testing.assert_array_equal(got, want)


def test_running_a_checkpoint_imports_numpy_and_safetensors_only(tmp_path):
    """Neither a framework nor what the rest of the toolkit stands on."""
    path = tmp_path / "net.safetensors"
    write(path, read(GOLDEN / "halves.safetensors"))
    script = f"""
import sys
before = set(sys.modules)
import numpy, runtime
model = runtime.load({str(path)!r})
model.profile(numpy.ones((2, 4, 5), "float32"))
tops = {{name.partition(".")[0] for name in set(sys.modules) - before}}
# numpy 1 brings cython's modules along.
foreign = {{name for name in tops if "cython" not in name}} - set(sys.stdlib_module_names)
foreign -= {{"numpy", "safetensors", "masktools", "runtime"}}
print(sorted(foreign), sorted(m for m in sys.modules if m.startswith("masktools.")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # fmt: skip # noqa: E501
    foreign, ours = done.stdout.strip().split("] [")
    assert foreign == "["
    assert not {
        "masktools.conversion.convert",
        "masktools.partition.partitioners",
        "masktools.importers",
    } & set(ours.strip("]").replace("'", "").split(", "))


def test_names_are_loaded_when_first_used():
    assert "load" in dir(runtime)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        runtime.lod  # noqa: B018
