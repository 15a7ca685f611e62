"""onnx's own backend tests: each network is right, or refused with a reason."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import runtime
from masktools.checkpoint import Checkpoint, write
from masktools.errors import FormatError, GraphError
from masktools.network.onnx.rewrites.elementwise import ELEMENTWISE
from masktools.network.onnx.rewrites.logic import LOGIC
from masktools.network.operators import ARITHMETIC, OPERATORS

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx.reference")
pytest.importorskip("onnx.version_converter")

LISTED = {
    *OPERATORS, *ELEMENTWISE, *LOGIC,
    "ConvTranspose", "Dropout", "Einsum", "GatherND", "GlobalLpPool", "LRN", "LpPool", "ReduceL1",
    "ReduceSumSquare", "Upsample",
}  # fmt: skip
# Corners are aligned by the size of the output here, as in onnxruntime and PyTorch; by in * scale,
# which is no size, in these.
OTHERWISE = {f"test_resize_downsample_scales_{mode}_align_corners" for mode in ("linear", "cubic")}
ALL_VALUES = (*ARITHMETIC, "Sum", "Concat", "Einsum")  # run with a last input that is a weight too


class BackendTest(NamedTuple):
    """A network of onnx's own tests, and what it must give."""

    name: str
    model: Any
    data_sets: list[tuple[list[Any], list[Any]]]
    rtol: float


def node_tests() -> list[BackendTest]:
    """Return onnx's own tests of one listed operator."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Its generators overflow on purpose.
        cases = collect_testcases(None)
    return [
        BackendTest(case.name, case.model, case.data_sets, case.rtol)
        for case in cases
        if case.model is not None
        and len(case.model.graph.node) == 1
        and case.model.graph.node[0].op_type in LISTED
        and case.name not in OTHERWISE
    ]


def torch_tests() -> list[BackendTest]:
    """Return onnx's tests that PyTorch once wrote, brought from operator set 6 to 13."""
    from onnx.backend.test.loader import load_model_tests

    tests = []
    for kind in ("pytorch-converted", "pytorch-operator"):
        for case in load_model_tests(kind=kind):
            folder = Path(case.model_dir)
            model = onnx.version_converter.convert_version(onnx.load(folder / "model.onnx"), 13)
            tests.append(BackendTest(case.name, model, [stored(folder)], case.rtol))
    return tests


def stored(folder: Path) -> tuple[list[Any], list[Any]]:
    """Return the inputs and outputs that a test's folder holds."""
    data = folder / "test_data_set_0"
    return tuple(  # type: ignore[return-value]
        [
            onnx.numpy_helper.to_array(onnx.load_tensor(data / f"{side}_{i}.pb"))
            for i in range(len(list(data.glob(f"{side}_*.pb"))))
        ]
        for side in ("input", "output")
    )


def with_weights(model: Any, inputs: list[Any], values: int) -> tuple[Any, dict[str, Any]]:
    """Return the model with all inputs from `values` on turned into initializers."""
    given_already = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in given_already]
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for name, array in zip(names[values:], inputs[values:], strict=True):
        changed.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    kept = [value for value in model.graph.input if value.name in names[:values]]
    del changed.graph.input[:]
    changed.graph.input.extend(kept)
    return changed, dict(zip(names[:values], inputs[:values], strict=True))


def outcome(case: BackendTest, values: int, folder: Path) -> str:
    """Run one backend test; return "right", or why the network is refused."""
    from masktools.network.onnx.reader import read_onnx

    for inputs, outputs in case.data_sets:
        try:
            model, given_inputs = with_weights(case.model, inputs, values)
        except TypeError:
            return "an input that is no tensor"
        if any(np.size(given) == 0 for given in given_inputs.values()):
            return "an empty input"
        try:
            write(folder / "net.safetensors", Checkpoint(read_onnx(model)))
            ready = runtime.load(folder / "net.safetensors")
        except (FormatError, GraphError, runtime.PlanError) as error:
            return str(error)
        with np.errstate(over="ignore"):
            taken = {n: np.asarray(a).astype(np.float32) for n, a in given_inputs.items()}
        got = ready(taken)
        got = got if isinstance(got, dict) else {ready.outputs[0].name: got}
        for value, want in zip(case.model.graph.output, outputs, strict=True):
            assert got[value.name].shape == want.shape, case.name
            # What is told in float16, or of numbers beyond float32, is compared as such.
            with np.errstate(over="ignore"):
                found, wanted = (np.asarray(a).astype(np.float32) for a in (got[value.name], want))
            # The source rounds each number to the 8 bits of bfloat16; this computes in float32.
            rtol = 2**-8 if "bfloat16" in case.name else case.rtol
            np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-6, err_msg=case.name)
    return "right"


def outcomes(cases: list[BackendTest], folder: Path) -> Counter[str]:
    """Return how many are right and how many refused, each with a reason that names its cause."""
    counts: Counter[str] = Counter()
    unexplained = []
    for case in cases:
        operators = {node.op_type for node in case.model.graph.node}
        values = len(case.data_sets[0][0]) if operators <= set(ALL_VALUES) else 1
        for count in {values, max(1, values - 1)}:
            result = outcome(case, count, folder)
            counts["right" if result == "right" else "refused"] += 1
            named = (*(f"({op})" for op in operators), "dtype", "no tensor", "does not depend")
            named += ("an empty input", "is too old: 9 or newer", "has no batch")
            if result != "right" and not any(word in result for word in named):
                unexplained.append((case.name, result))
    assert not unexplained
    return counts


def test_node_tests_are_right_or_refused_by_name(tmp_path):
    """None may be silently wrong, and those that this project is for must run."""
    counts = outcomes(node_tests(), tmp_path)
    assert counts["right"] > 380, counts


def test_pytorch_tests_are_right_or_refused_by_name(tmp_path):
    counts = outcomes(torch_tests(), tmp_path)
    assert counts["right"] > 100, counts
