"""The CUDA backend's host side: what it asks for, refuses, keeps, records and hands out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import fake_cupy
import numpy as np
import pytest
from builder import Builder
from cuda_plans import failing, layered, normal, pointwise
from paths import GOLDEN

import runtime
from masktools.checkpoint import Checkpoint
from masktools.network.graph import Graph, Node, Value
from runtime.cuda import driver
from runtime.cuda.backend import CudaBackend
from runtime.cuda.configuration import Configuration
from runtime.errors import InputError, KernelError, PlanError
from runtime.model import Model
from runtime.plan import plan as plans
from runtime.reference.backend import ReferenceBackend


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    yield from fake_cupy.installed("emulated", monkeypatch, tmp_path)


# --- what is refused when a model is made --------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "dtype", "wanted"),
    [
        (75, "tf32", "tf32 needs a device of compute capability 8.0, this one has 7.5"),
        (70, "float16", "float16 needs a device of compute capability 7.5, this one has 7.0"),
        (90, "float64", "computes in float32, tf32, float16, not float64"),
    ],
)
def test_a_type_that_the_device_lacks_is_refused_by_name(cupy, capability, dtype, wanted):
    cupy.properties.update(major=capability // 10, minor=capability % 10)
    with pytest.raises(PlanError, match=wanted):
        Model(pointwise(), CudaBackend(), dtype)


def test_processor_threads_are_refused(cupy):
    with pytest.raises(PlanError, match="not on processor threads"):
        Model(pointwise(), CudaBackend(), threads=2)


def test_nothing_is_compiled_or_allocated_before_the_first_run(cupy):
    model = Model(layered(), CudaBackend())
    assert (cupy.compiled, cupy.wholes) == (0, [])
    model(normal(8, 3, 6, 6))
    assert cupy.compiled


@pytest.mark.parametrize("name", ["minimal", "halves"])
def test_a_checkpoint_runs_from_its_file(cupy, name):
    """`halves`: two convolution groups along one axis, shared float16 weights, a clip between."""
    path = GOLDEN / f"{name}.safetensors"
    reference = runtime.load(path, "reference")
    x = normal(9, *reference.inputs[0].shape[1:])
    wanted = reference(x)
    model = runtime.load(path)
    assert model.backend.name == "cuda"  # The best that can run here.
    np.testing.assert_allclose(model(x), wanted, rtol=1e-5, atol=1e-5)
    half = runtime.load(path, "cuda", "float16")(x)
    np.testing.assert_allclose(half, wanted, atol=4e-3 * np.abs(wanted).max())


# --- arrays in and out ---------------------------------------------------------------------------


def test_numpy_in_numpy_out_and_cupy_in_cupy_out(cupy):
    model, x = Model(pointwise(), CudaBackend()), normal(9, 3, 6, 6)
    wanted = Model(pointwise(), ReferenceBackend())(x)
    given = x.copy()
    got = model(x)
    assert isinstance(got, np.ndarray)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    on_device = model(cupy.asarray(x))
    assert isinstance(on_device, cupy.ndarray)
    np.testing.assert_array_equal(cupy.asnumpy(on_device), got)
    np.testing.assert_array_equal(x, given)


def test_an_array_that_is_not_contiguous_is_copied_not_misread(cupy):
    model, x = Model(pointwise(), CudaBackend()), normal(9, 6, 6, 3)
    turned = cupy.asarray(x).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(
        cupy.asnumpy(model(turned)), model(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    )


def test_an_array_of_another_device_is_refused(cupy):
    model, x = Model(pointwise(), CudaBackend()), cupy.asarray(normal(8, 3, 6, 6))
    x.device = SimpleNamespace(id=1)
    with pytest.raises(InputError, match="'x' is on device 1, the network on device 0"):
        model(x)


def test_each_call_returns_memory_of_its_own(cupy):
    model, x, z = Model(pointwise(), CudaBackend()), normal(8, 3, 6, 6), normal(8, 3, 6, 6)
    first = model(cupy.asarray(x))
    kept = cupy.asnumpy(first)
    model(cupy.asarray(z))
    np.testing.assert_array_equal(cupy.asnumpy(first), kept)


def test_outputs_that_are_inputs_or_each_other_go_by_name(cupy):
    graph = Graph(
        (Value("x", (None, 3)), Value("z", (None, 3))),
        (Value("same", (None, 3)), Value("again", (None, 3)), Value("sum", (None, 3))),
        (
            Node("a", "Identity", ("x",), ("same",), {}),
            Node("b", "Identity", ("same",), ("again",), {}),
            Node("c", "Add", ("x", "z"), ("sum",), {}),
        ),
    )
    x, z = normal(9, 3), normal(9, 3)
    got = Model(plans.build(Checkpoint(graph)), CudaBackend())({"z": z, "x": x})
    assert list(got) == ["same", "again", "sum"]
    np.testing.assert_array_equal(got["same"], x)
    np.testing.assert_array_equal(got["again"], x)
    np.testing.assert_array_equal(got["sum"], x + z)


def test_an_output_may_have_the_name_of_an_input(cupy):
    graph = Graph((Value("x", (None, 3)),), (Value("x", (None, 3)),), ())
    x = normal(9, 3)
    np.testing.assert_array_equal(Model(plans.build(Checkpoint(graph)), CudaBackend())(x), x)


# --- recorded once, replayed ---------------------------------------------------------------------


def test_a_run_is_a_copy_in_a_graph_and_a_copy_out(cupy):
    model, x = Model(layered(), CudaBackend()), normal(8, 3, 6, 6)
    model(x)
    of_steps = (len(cupy.launched) - 2) // 2  # Each was made once, then recorded.
    compiled, allocated = cupy.compiled, len(cupy.wholes)
    cupy.launched.clear()
    ran = cupy.ran
    model(x)
    assert cupy.launched == ["enter_float32", "leave_float32"]
    assert cupy.ran - ran == 2 + of_steps
    assert cupy.compiled == compiled
    assert len(cupy.wholes) == allocated + 2  # The input and the output.


def test_every_shape_is_recorded_and_kernels_and_weights_are_shared(cupy):
    model = Model(pointwise(), CudaBackend())
    for batch in (8, 16, 3):
        model(normal(batch, 3, 6, 6))
    assert cupy.compiled == 2  # border.cu and pointwise.cu
    weights = normal(64, 3, 3, 3)

    def kept():
        device = driver.current_device(cupy)
        return device.table(weights)

    first = kept()
    assert kept() is first
    assert driver.current_device(cupy).table(weights.view(np.int32)) is not first


def test_networks_share_what_is_compiled(cupy):
    x = normal(8, 3, 6, 6)
    Model(layered(), CudaBackend())(x)
    compiled = cupy.compiled
    Model(layered(), CudaBackend())(x)
    assert cupy.compiled == compiled


def test_profiling_waits_for_every_step(cupy):
    model, x = Model(layered(), CudaBackend()), normal(8, 3, 6, 6)
    rows = model.profile(x)
    assert [row.operator for row in rows] == ["Conv+Relu", "Reshape", "Gemm"]
    assert [row.seconds > 0 for row in rows] == [True, False, True]


def test_calls_wait_for_the_one_before_on_whatever_stream(cupy):
    model, x = Model(pointwise(), CudaBackend()), cupy.asarray(normal(8, 3, 6, 6))
    model(x)
    cupy.order.clear()
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in range(2)]
    for stream in streams:
        with stream:
            model(x)
    kinds = [(kind, number) for kind, _, number in cupy.order]
    ended = kinds[0][1]
    assert kinds == [("wait", ended), ("record", ended)] * 2
    assert [stream for _, stream, _ in cupy.order] == [id(s) for s in streams for _ in range(2)]


def test_memory_is_given_back_only_when_the_last_run_has_ended(cupy, monkeypatch):
    waited = []
    monkeypatch.setattr(fake_cupy.Event, "synchronize", lambda event: waited.append(event.number))
    model = Model(pointwise(), CudaBackend())
    model(normal(8, 3, 6, 6))
    (built,) = [e.built for e in model._compiled.values() if e.built]
    ended = built._ended.number
    del built
    model._compiled.clear()
    assert waited == [ended]


def test_threads_may_share_a_model(cupy):
    model = Model(pointwise(), CudaBackend())
    xs = [normal(8, 3, 6, 6) for _ in range(8)]
    wanted = [Model(pointwise(), ReferenceBackend())(x) for x in xs]
    with ThreadPoolExecutor(4) as pool:
        for got, want in zip(pool.map(model, xs), wanted, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6)


def test_any_schedule_of_threads_gives_the_same(cupy):
    b = Builder()
    pooled = b.add("MaxPool", ["x"], 3, 3, kernel_shape=(2, 2), strides=(2, 2), pads=(0,) * 4,
                   dilations=(1, 1), ceil_mode=0)  # fmt: skip
    plan = plans.build(Checkpoint(b.graph(b.add("Softmax", [pooled], 3, axis=1), b.gate("x"))))
    x, outputs = normal(9, 3, 6, 6), []
    for cupy.schedule in range(4):
        outputs.append(Model(plan, CudaBackend())(x))
    for name, first in outputs[0].items():
        for other in outputs[1:]:
            np.testing.assert_array_equal(other[name], first)


# --- what goes wrong -----------------------------------------------------------------------------


def test_a_compiler_error_carries_the_compilers_words(cupy):
    def build(code, capability):
        raise fake_cupy.CompileException("k.cu(3): error: expected a ';'")

    cupy._build = build
    with pytest.raises(KernelError, match=r"kernel 'enter_float32' on device 0: .*expected a ';'"):
        Model(pointwise(), CudaBackend())(normal(8, 3, 6, 6))


def test_memory_that_runs_out_is_a_kernel_error(cupy, monkeypatch):
    model = Model(pointwise(), CudaBackend())
    monkeypatch.setattr(cupy, "empty", failing(fake_cupy.OutOfMemoryError("out of memory")))
    with pytest.raises(KernelError, match="running the network on device 0: out of memory"):
        model(normal(8, 3, 6, 6))


def test_a_launch_that_fails_says_so_and_leaves_no_stream_recording(cupy, monkeypatch):
    model, x = Model(pointwise(), CudaBackend()), normal(8, 3, 6, 6)
    launch = fake_cupy.Kernel.__call__
    calls = []

    def fails_while_recording(kernel, *args, **kwargs):
        if cupy.stream._recorded is not None:
            calls.append(cupy.stream)
            raise fake_cupy.CUDADriverError("CUDA_ERROR_INVALID_VALUE")
        launch(kernel, *args, **kwargs)

    monkeypatch.setattr(fake_cupy.Kernel, "__call__", fails_while_recording)
    with pytest.raises(KernelError, match="CUDA_ERROR_INVALID_VALUE"):
        model(x)
    assert [stream._recorded for stream in calls] == [None]
    monkeypatch.setattr(fake_cupy.Kernel, "__call__", launch)
    assert np.isfinite(model(x)).all()


def test_a_fault_that_shows_when_the_output_is_fetched_is_a_kernel_error(cupy):
    model = Model(pointwise(), CudaBackend())
    cupy.asnumpy = failing(fake_cupy.CUDARuntimeError("cudaErrorIllegalAddress"))
    with pytest.raises(KernelError, match="cudaErrorIllegalAddress"):
        model(normal(8, 3, 6, 6))


def test_synchronize_waits_for_the_current_stream(cupy, monkeypatch):
    waited = []
    monkeypatch.setattr(fake_cupy.Stream, "synchronize", lambda stream: waited.append(stream))
    CudaBackend().synchronize()
    assert waited == [cupy.default]


# --- which kernel --------------------------------------------------------------------------------


def remembered(folder):
    return sorted(folder.iterdir()) if folder.exists() else []


def test_untuned_nothing_is_timed_or_kept(cupy, tmp_path):
    Model(layered(), CudaBackend())(normal(8, 3, 6, 6))
    assert remembered(tmp_path) == []


def test_tuned_each_layer_is_timed_once_and_the_choice_kept(cupy, tmp_path, monkeypatch):
    monkeypatch.setenv("MASKTOOLS_CUDA_TUNE", "1")
    chosen, timed = shortened(monkeypatch), []
    cupy.cuda.get_elapsed_time = lambda begin, end: timed.append(begin) or 1.0
    x, plan = normal(8, 3, 6, 6), layered()
    first = Model(plan, CudaBackend())(x)
    assert len(remembered(tmp_path)) == 2  # A convolution and a product.
    assert len(timed) >= 4
    timed.clear()
    np.testing.assert_array_equal(Model(plan, CudaBackend())(x), first)
    assert timed == []
    assert all(isinstance(c, Configuration) for c in chosen)


def shortened(monkeypatch):
    """Let two candidates stand for all: each has to be emulated."""
    from runtime.cuda import tuning

    seen, candidates = [], tuning.candidates

    def two(problem, limits):
        found = candidates(problem, limits)[:2]
        seen.extend(found)
        return found

    monkeypatch.setattr(tuning, "candidates", two)
    monkeypatch.setattr(tuning, "COPIES", 1)
    return seen


def test_a_choice_is_used_without_tuning_and_a_damaged_one_is_not(cupy, tmp_path, monkeypatch):
    shortened(monkeypatch)
    x, plan = normal(8, 3, 6, 6), layered()
    wanted = Model(plan, CudaBackend(tuned=True))(x)
    cupy.cuda.get_elapsed_time = failing(AssertionError("timed"))
    np.testing.assert_array_equal(Model(plan, CudaBackend())(x), wanted)
    for path in remembered(tmp_path):
        path.write_text("{")
    with pytest.warns(RuntimeWarning, match="ignored: damaged"):
        got = Model(plan, CudaBackend())(x)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
