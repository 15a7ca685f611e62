"""The CPU backend against the reference: every variant, every kind of layer, every batch."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zoo
from cpu_variants import REASONS, VARIANTS
from drawn_layers import CASES, drawn, layer
from hypothesis import given, settings
from hypothesis import strategies as st
from network_cases import BATCHES, NETWORKS, compare, images, outputs, planned, window
from paths import GOLDEN

from masktools.checkpoint import Checkpoint
from masktools.export.exporting import prepare
from masktools.network.graph import Graph, Node, Value
from runtime.cpu import native
from runtime.cpu.backend import CpuBackend
from runtime.errors import PlanError
from runtime.model import Model
from runtime.plan import plan
from runtime.reference.backend import ReferenceBackend


@pytest.fixture(params=VARIANTS)
def variant(request, monkeypatch):
    monkeypatch.setenv(native.VARIABLE, request.param)
    return request.param


def test_some_variant_is_tested():
    """Where the kernels were built, that is; CI builds them."""
    if not CpuBackend().available().ok:
        pytest.skip(CpuBackend().available().detail)
    assert not all(REASONS.values())


@pytest.mark.parametrize("name", [v for v in native.VARIANTS if not REASONS[v]])
@settings(max_examples=25)
@given(case=CASES, batch=st.sampled_from(BATCHES), threads=st.sampled_from([1, 2]))
def test_layers_of_every_kind(name, case, batch, threads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.VARIABLE, name)
        x, sparse, dense, attributes = drawn({**case, "batch": batch})
        bias = np.arange(len(dense), dtype=np.float32)
        for weight in (sparse, dense):
            compare(plan.build(layer(weight, x, attributes, bias)[0]), x, threads)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("threads", [1, 2])
def test_networks_at_every_batch(variant, network, threads):
    made = planned(network)
    for batch in BATCHES:
        compare(made, images(batch), threads)


SMALL = [name for name in zoo.ZOO if name not in ("resnet50", "resnet18", "vgg16")]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("density", "refilled"), [(1.0, False), (0.2, False), (0.3, True)])
def test_the_zoo(name, density, refilled):
    module = zoo.make(name)
    size = zoo.ZOO[name][1]
    masks = zoo.random_masks(module, density, refilled) if density < 1 else None
    checkpoint, _ = prepare(zoo.to_onnx(module, size), masks=masks, residual="keep")
    made = plan.build(checkpoint)
    for batch in (1, 3, 16):
        x = zoo.images(name, size, batch)
        got = Model(made, CpuBackend(), threads=2)(x)
        want = Model(made, ReferenceBackend())(x)
        assert np.abs(got - want).max() <= 2e-5 * np.abs(want).max()


def test_values_that_are_no_numbers_stay(variant):
    """Relu and maxima pass NaN on, as NumPy's maximum does; infinities too."""
    for activation in ("Relu", "Clip", "HardSwish", "LeakyRelu"):

        def network(b, op=activation):
            kinds = {"Clip": {"min": 0.0, "max": 6.0}, "LeakyRelu": {"alpha": 0.1}}
            a = b.act(op, b.conv("x", 4, 1), **kinds.get(op, {}))
            return b.add("MaxPool", [a], 4, 3, **window(2, 2)), a

        made = planned(network)
        for batch in (1, 16, 64):
            x = images(batch)
            x[0, 1, 2, 3], x[-1, 0, 0, 0] = np.nan, np.inf
            with np.errstate(all="ignore"):
                want = outputs(Model(made, ReferenceBackend()), x)
            for a, b in zip(outputs(Model(made, CpuBackend()), x), want, strict=True):
                np.testing.assert_array_equal(np.isnan(a), np.isnan(b))


def test_one_image_never_reaches_another(variant):
    made = planned(NETWORKS[0])
    model = Model(made, CpuBackend(), threads=2)
    for batch in (2, 3, 16, 17):
        x = images(batch)
        clean = model(x)
        x[1] = np.nan
        got = model(x)
        np.testing.assert_array_equal(np.delete(got, 1, 0), np.delete(clean, 1, 0))
        assert np.isnan(got[1]).any()


def test_the_same_input_gives_the_same_bits_whatever_the_threads():
    made = planned(NETWORKS[0])
    for batch in (1, 16):
        x = images(batch)
        results = [Model(made, CpuBackend(), threads=t)(x) for t in (1, 2, 3) for _ in range(2)]
        for other in results[1:]:
            np.testing.assert_array_equal(results[0], other)


# --- inputs and outputs ------------------------------------------------------------------------


def test_inputs_may_lie_anyhow_in_memory():
    model = Model(planned(NETWORKS[0]), CpuBackend())
    x = images(4)
    wide = np.zeros((4, 3, 6, 12), np.float32)
    wide[..., ::2] = x
    turned = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    frozen = x.copy()
    frozen.flags.writeable = False
    for other in (wide[..., ::2], turned, frozen, np.asfortranarray(x)):
        np.testing.assert_array_equal(model(other), model(x))


def test_neither_inputs_nor_earlier_outputs_are_touched():
    node = Node("r", "Reshape", ("x",), ("y",), {"shape": (0, -1)})
    graph = Graph((Value("x", (None, 2, 3)),), (Value("y", (None, 6)),), (node,))
    model = Model(plan.build(Checkpoint(graph)), CpuBackend())
    x = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    first = model(x)
    assert first.flags.c_contiguous
    second = model(-x)
    assert first.tolist() == x.reshape(2, 6).tolist()
    assert second.tolist() == (-x).reshape(2, 6).tolist()
    assert x.ravel().tolist() == list(range(12))


# --- threads -----------------------------------------------------------------------------------


def test_two_models_in_two_threads_do_not_disturb_each_other():
    plans = [planned(network) for network in NETWORKS[:2]]
    models = [Model(made, CpuBackend(), threads=2) for made in plans]
    x = images(8)
    wanted = [outputs(model, x) for model in models]

    def call(number):
        return number, outputs(models[number], x)

    with ThreadPoolExecutor(4) as pool:
        for number, got in pool.map(call, [0, 1] * 50):
            for a, b in zip(got, wanted[number], strict=True):
                np.testing.assert_array_equal(a, b)


def test_threads_share_a_model_of_many_shapes():
    model = Model(planned(NETWORKS[0]), CpuBackend(), threads=2)
    inputs = [images(1 + i % 11, seed=i) for i in range(66)]
    wanted = [Model(model.plan, CpuBackend(), threads=1)(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for got, want in zip(pool.map(model, inputs), wanted, strict=True):
            np.testing.assert_array_equal(got, want)


def test_a_profile_has_seconds_for_every_step_that_does_something():
    model = Model(planned(NETWORKS[2]), CpuBackend(), threads=2)
    rows = model.profile(images(64))
    assert len(rows) == len(model.plan.steps)
    assert all(row.seconds > 0 for row in rows if row.operator.startswith("Conv"))


# --- memory and refusals -----------------------------------------------------------------------


def test_weights_are_packed_once_for_all_batches_of_whole_vectors():
    backend = CpuBackend()
    model = Model(planned(NETWORKS[0]), backend)
    model(images(16))
    (packed,) = backend._packed.values()
    made = dict(packed._made)
    for batch in (32, 48, 64):
        model(images(batch))
    assert packed._made == made
    del model
    assert not backend._packed


def test_what_the_backend_does_not_offer_is_refused():
    made = planned(NETWORKS[0])
    with pytest.raises(PlanError, match="computes in float32 or bfloat16, not float64"):
        Model(made, CpuBackend(), "float64")
    with pytest.raises(PlanError, match="at most 256 threads, not 1000"):
        Model(made, CpuBackend(), threads=1000)


def test_running_a_network_imports_neither_scipy_nor_the_toolkit():
    golden = str(GOLDEN / "halves.safetensors")
    script = f"""
import sys, numpy, runtime
model = runtime.load({golden!r}, backend="cpu")
model(numpy.ones((2, 4, 5), "float32"))
heavy = ("scipy", "torch", "networkx", "masktools.conversion.convert")
print(*(m for m in heavy if m in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
