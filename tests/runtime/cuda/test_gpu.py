"""What emulation cannot show: a real device, its compiler, its streams, layers of real size.

python -m pytest -m gpu
compute-sanitizer --error-exitcode 1 python -m pytest -m gpu tests/runtime/cuda/test_steps.py
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import runtime
from masktools.checkpoint import Checkpoint, write
from masktools.checkpoint.weights import SparseWeight
from masktools.layout import BlockLayout, DenseBlock
from masktools.network.graph import Graph, Node, Value
from runtime.cuda import kernel_source
from runtime.cuda.backend import CudaBackend
from runtime.cuda.candidates import NEEDED, candidates, choose
from runtime.cuda.driver import cupy_module, current_device
from runtime.cuda.executable import Built
from runtime.cuda.program import build
from runtime.cuda.tuning import limits
from runtime.model import Model
from runtime.plan import plan as plans
from runtime.reference.backend import ReferenceBackend

pytestmark = pytest.mark.gpu

# Roundings of the inputs to the type, twice for a product, and of the output.
UNIT = {"float32": 2.0**-24, "tf32": 2.0**-11, "float16": 2.0**-11}


@pytest.fixture(autouse=True)
def cupy(monkeypatch, tmp_path):
    ok, detail = CudaBackend().available()
    if not ok:
        pytest.skip(detail)
    monkeypatch.setenv("MASKTOOLS_CACHE", str(tmp_path))
    return pytest.importorskip("cupy")


def types():
    """Return the types of the device of this machine; all where there is none."""
    if not CudaBackend().available().ok:
        return list(NEEDED)
    capability = current_device(cupy_module()).hardware.capability
    return [dtype for dtype, least in NEEDED.items() if capability >= least]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def blocked(shape, height, density, residual=0.0):
    """Return weights of row groups of a height, each with columns of its own, and some beside."""
    random = np.random.default_rng(1)
    rows, columns = shape[0], int(np.prod(shape[1:]))
    order = random.permutation(rows)
    blocks = []
    mask = np.zeros((rows, columns), bool)
    for first in range(0, rows, height):
        group = np.sort(order[first : first + height])
        kept = np.sort(random.permutation(columns)[: max(1, int(density * columns))])
        blocks.append(DenseBlock(group, kept))
        mask[np.ix_(group, kept)] = True
    beside = (random.random(mask.shape) < residual) & ~mask
    layout = BlockLayout(shape, tuple(blocks))
    scale = np.float32(1 / np.sqrt(density * columns))
    return SparseWeight.from_dense(scale * normal(*shape), layout, beside.reshape(shape))


def convolution(weight, size, bias=True):
    """Return a network of one padded convolution, with bias and ReLU or with neither."""
    rows, channels, taps = weight.layout.shape[:3]
    window = {"strides": (1, 1), "dilations": (1, 1), "pads": (taps // 2,) * 4, "group": 1}
    inputs = ("x", "l.weight", *(["l.bias"] if bias else []))
    nodes = (Node("l", "Conv", inputs, ("a",), window),)
    if bias:
        nodes += (Node("relu", "Relu", ("a",), ("b",), {}),)
    graph = Graph(
        (Value("x", (None, channels, size, size)),),
        (Value(nodes[-1].outputs[0], (None, rows, size, size)),),
        nodes,
        {"l.bias": normal(rows)} if bias else {},
    )
    return Checkpoint(graph, {"l": weight})


def exact(weight, x):
    """Return W x + b after ReLU, and |W| |x| + |b|, in float64."""
    residual = weight.residual
    if residual is not None:
        residual = replace(residual, values=np.abs(residual.values))
    absolute = replace(weight, values=np.abs(weight.values), residual=residual)
    wanted, products = (
        Model(plans.build(network), ReferenceBackend(), "float64")(given).astype(np.float64)
        for network, given in (
            (convolution(weight, x.shape[2]), x),
            (convolution(absolute, x.shape[2], bias=False), np.abs(x)),
        )
    )
    products += np.abs(normal(products.shape[1]))[:, None, None]
    return wanted, products


def bound(weight, wanted, products, dtype):
    """Return how far roundings may lead from what is exact.

    Both factors of a product are rounded to the type, sums to float32, the output to the type:
    2 u |W| |x| + 4 sqrt(terms) u32 |W| |x| + u |y|.
    """
    sums = 4 * np.sqrt(weight.layout.columns) * UNIT["float32"]
    output = UNIT["float16" if dtype == "float16" else "float32"]
    return (2 * UNIT[dtype] + sums) * products + output * np.abs(wanted)


LAYERS = {
    "256 channels, height 32": ((256, 256, 3, 3), 32, 0.2, 0.0, 16, 64),
    "512 channels, height 96": ((512, 512, 3, 3), 96, 0.1, 0.0, 8, 64),
    "rows of every remainder": ((203, 96, 3, 3), 29, 0.3, 0.001, 9, 10),
    "pointwise": ((512, 128, 1, 1), 64, 0.42, 0.0, 14, 64),
    "batch 1": ((256, 256, 3, 3), 32, 0.2, 0.001, 14, 1),
}


@cache
def layer(case):
    """Return weights, an input, and what is exact: the same for every type."""
    shape, height, density, residual, size, batch = LAYERS[case]
    weight, x = blocked(shape, height, density, residual), normal(batch, shape[1], size, size)
    return weight, x, *exact(weight, x)


@pytest.mark.parametrize("dtype", types())
@pytest.mark.parametrize("case", LAYERS)
def test_every_candidate_computes_the_layer(cupy, case, dtype):
    weight, x, wanted, products = layer(case)
    plan, batch = plans.build(convolution(weight, x.shape[2])), len(x)
    device = current_device(cupy)
    problems = []
    build(plan, batch, dtype, lambda _, p: problems.append(p) or choose(p, limits(device)))
    most, given = bound(weight, wanted, products, dtype), {"x": cupy.asarray(x)}
    found = candidates(problems[0], limits(device))
    device.compile([kernel_source.render([c]) for c in found], kernel_source.OPTIONS)
    for candidate in found:
        program = build(plan, batch, dtype, lambda *_, c=candidate: c)
        (got,) = Built(device, program).run(given, None).values()
        assert (np.abs(cupy.asnumpy(got) - wanted) <= most).all(), candidate


@pytest.mark.parametrize("dtype", types())
def test_runs_repeat_to_the_last_bit(cupy, dtype):
    weight = blocked((256, 256, 3, 3), 32, 0.2, 0.001)
    plan, x = plans.build(convolution(weight, 8)), normal(64, 256, 8, 8)
    model = Model(plan, CudaBackend(), dtype)
    first = model(x)
    for _ in range(20):
        np.testing.assert_array_equal(model(x), first)


def test_cupy_in_cupy_out_on_a_stream_of_the_callers(cupy):
    weight = blocked((64, 64, 3, 3), 32, 0.3)
    plan = plans.build(convolution(weight, 16))
    model, x = Model(plan, CudaBackend()), normal(16, 64, 16, 16)
    wanted = model(x)
    assert isinstance(wanted, np.ndarray)
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(3)]
    outputs = []
    for number in range(12):
        with streams[number % 3] as stream:
            given = cupy.asarray(x) * (number + 1) / (number + 1)
            outputs.append(model(given.astype(cupy.float32)))
            stream.synchronize()
    for output in outputs:
        assert isinstance(output, cupy.ndarray)
        np.testing.assert_allclose(cupy.asnumpy(output), wanted, rtol=1e-4, atol=1e-5)


def test_threads_share_a_model(cupy):
    weight = blocked((64, 64, 3, 3), 32, 0.3)
    plan = plans.build(convolution(weight, 8))
    model = Model(plan, CudaBackend())
    xs = [normal(1 + i % 3 * 8, 64, 8, 8, seed=i) for i in range(24)]
    wanted = [model(x) for x in xs]
    with ThreadPoolExecutor(6) as pool:
        for got, want in zip(pool.map(model, xs), wanted, strict=True):
            np.testing.assert_array_equal(got, want)


def test_memory_of_executables_that_are_gone_comes_back(cupy):
    weight = blocked((64, 64, 3, 3), 32, 0.3)
    model = Model(plans.build(convolution(weight, 32)), CudaBackend())
    pool = cupy.get_default_memory_pool()
    model(normal(8, 64, 32, 32))
    used = []
    for batch in range(8, 80, 4):
        model(normal(batch, 64, 32, 32))
        used.append(pool.used_bytes())
    model._compiled.clear()
    assert pool.used_bytes() < min(used)


def test_tuning_remembers_and_changes_no_result(cupy):
    weight = blocked((256, 128, 3, 3), 32, 0.2)
    plan, x = plans.build(convolution(weight, 16)), normal(64, 128, 16, 16)
    tuned = Model(plan, CudaBackend(tuned=True))
    got = tuned(x)
    np.testing.assert_array_equal(Model(plan, CudaBackend())(x), got)
    wanted, products = exact(weight, x)
    assert (np.abs(got - wanted) <= bound(weight, wanted, products, "float32")).all()


def test_the_command_line_runs_on_the_device(tmp_path):
    path = tmp_path / "net.safetensors"
    write(path, convolution(blocked((32, 16, 3, 3), 32, 0.5), 8))
    x = normal(3, 16, 8, 8)
    np.save(tmp_path / "x.npy", x)
    command = ["run", str(path), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run([sys.executable, "-m", "runtime", *command, "--backend", "cuda"], check=True)
    wanted = runtime.load(path, "reference")(x)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), wanted, rtol=1e-4, atol=1e-5)
