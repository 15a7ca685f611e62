"""What an export compares: every backend that runs here, several batches, before and after."""

from __future__ import annotations

import json
import sys

import numpy as np
import onnx
import pytest
import small_network
import torch
import zoo
from command_lines import invoke

from masktools.cli import verification
from masktools.cli.verification import BATCHES, FULL_BATCH, LOUDER
from runtime import backend
from runtime.errors import KernelError, PlanError
from runtime.reference.backend import ReferenceBackend

REFERENCE = {"reference": "runtime.reference.backend:ReferenceBackend"}


@pytest.fixture
def net(tmp_path):
    """The network as a file."""
    return small_network.saved(small_network.make(), tmp_path)


class Spoiled(ReferenceBackend):
    """A backend whose outputs go through `spoil`, which is told how often it was called."""

    name = "spoiled"

    def compile(self, plan, shapes, dtype, threads):
        self.batch = next(iter(shapes.values()))[0]
        whole, outer, batch = super().compile(plan, shapes, dtype, threads), self, self.batch

        class Executable:
            calls = 0

            def run(self, inputs, seconds=None):
                outputs = whole.run(inputs, seconds)
                Executable.calls += 1
                return outer.spoil(inputs, outputs, Executable.calls, batch)

        return Executable()


@pytest.fixture
def planted(monkeypatch):
    """Put a backend into the registry, beside the reference; return a function that does."""

    def plant(spoil, compiles=None):
        made = type("Planted", (Spoiled,), {"spoil": staticmethod(spoil)})
        if compiles is not None:
            made.compile = compiles
        monkeypatch.setattr(
            sys.modules["runtime.reference.backend"], "Planted", made, raising=False
        )
        monkeypatch.setattr(
            backend, "BACKENDS", {"planted": "runtime.reference.backend:Planted", **REFERENCE}
        )

    return plant


def refused(net, folder):
    """Export, and return why that was refused; no file may be left, and one line be said."""
    _, stderr = invoke(net, folder / "out.safetensors", status=1)
    assert stderr.startswith(f"masktools: {net}: ")
    assert stderr.count("\n") == 1
    assert [path.name for path in folder.iterdir()] == ["net.onnx"]
    invoke(net, folder / "out.safetensors", "--no-verify")
    return stderr


def changed(outputs, change):
    return {name: change(array.copy()) for name, array in outputs.items()}


def test_every_backend_that_runs_here_is_named_with_its_differences(net, tmp_path):
    available = {
        name for name in backend.BACKENDS if backend._load(name).available().ok
    }  # fmt: skip
    assert "reference" in available
    out = tmp_path / "out.safetensors"
    report = json.loads(invoke(net, out, "--json")[0])
    told = report["verification"]
    batches = [*BATCHES, FULL_BATCH]
    assert told["batches"] == batches
    assert told["open_batch"] is True
    assert set(told["backends"]) == available
    assert set(told["unavailable"]) == set(backend.BACKENDS) - available
    for one in told["backends"].values():
        assert one["on"]
        assert list(one["differences"]) == [str(batch) for batch in batches]
        assert all(0 <= d < 1e-5 for d in one["differences"].values())
    largest = max(d for one in told["backends"].values() for d in one["differences"].values())
    assert report["difference"] == largest
    text = invoke(net, out)[0]
    for name in available:
        assert f"\n{name} (" in text
    for name in told["unavailable"]:
        assert f"not verified: backend {name!r} cannot run here: " in text
    for batch in batches:
        assert f"at batch {batch}" in text
    assert b"difference" not in out.read_bytes()
    assert json.loads(invoke(net, out, "--no-verify", "--json")[0])["verification"] is None


def test_wrong_numbers_of_one_backend_are_seen(net, tmp_path, planted):
    planted(lambda inputs, outputs, call, batch: changed(outputs, lambda y: y * 1.001))
    assert "something else on backend 'planted', batch 1: max|Δ|" in refused(net, tmp_path)


@pytest.mark.parametrize("batch", [*BATCHES, FULL_BATCH])
def test_wrong_numbers_in_the_last_sample_of_one_batch_are_seen(net, tmp_path, planted, batch):
    def spoil(inputs, outputs, call, n):
        if n == batch:
            for y in outputs.values():
                y[-1, -1] += 0.1 * np.abs(y).max()
        return outputs

    planted(spoil)
    assert f"something else on backend 'planted', batch {batch}: " in refused(net, tmp_path)


def test_what_an_earlier_call_left_behind_is_seen(net, tmp_path, planted):
    left = {}

    def spoil(inputs, outputs, call, batch):
        outputs = changed(outputs, lambda y: y + 1e-3 * left.get(batch, 0.0))
        left[batch] = next(iter(outputs.values()))
        return outputs

    planted(spoil)
    assert "backend 'planted', batch 1, after other data: max|Δ|" in refused(net, tmp_path)


def test_one_bit_that_an_earlier_call_left_behind_is_seen(net, tmp_path, planted):
    def spoil(inputs, outputs, call, batch):
        if call > 1:
            for y in outputs.values():
                y[0, 0] = np.nextafter(y[0, 0], np.float32(np.inf))
        return outputs

    planted(spoil)
    stderr = refused(net, tmp_path)
    assert "'planted', batch 1: the same input gives other numbers after another input" in stderr


def test_the_calls_in_between_bring_other_and_louder_data(net, tmp_path, planted):
    seen = []

    def spoil(inputs, outputs, call, batch):
        seen.append((batch, float(np.abs(next(iter(inputs.values()))).mean())))
        return outputs

    planted(spoil)
    invoke(net, tmp_path / "out.safetensors")
    batches = [*BATCHES, FULL_BATCH]
    assert [batch for batch, _ in seen] == batches * 3
    first, louder, again = (seen[i * len(batches) : (i + 1) * len(batches)] for i in range(3))
    assert first == again
    for (_, quiet), (_, loud) in zip(first, louder, strict=True):
        assert LOUDER / 2 < loud / quiet < LOUDER * 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 1])
def test_what_is_no_number_is_seen_in_any_output(tmp_path, planted, value, at):
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return self.a(x), self.b(x)

    def spoil(inputs, outputs, call, batch):
        list(outputs.values())[at][-1, -1] = value
        return outputs

    onnx.save(zoo.to_onnx(Two().eval(), 4), tmp_path / "net.onnx")
    invoke(tmp_path / "net.onnx", tmp_path / "out.safetensors")
    (tmp_path / "out.safetensors").unlink()
    planted(spoil)
    assert "something else on backend 'planted', batch 1" in refused(
        tmp_path / "net.onnx", tmp_path
    )


@pytest.mark.parametrize("error", [KernelError("no\nmemory"), RuntimeError("no\nmemory")])
def test_a_backend_that_fails_is_named(net, tmp_path, planted, error):
    def spoil(inputs, outputs, call, batch):
        if batch == BATCHES[-1]:
            raise error
        return outputs

    planted(spoil)
    wanted = f"backend 'planted' cannot run the checkpoint: {type(error).__name__}: no memory; "
    assert wanted in refused(net, tmp_path)


def test_a_backend_that_lacks_a_step_is_named(net, tmp_path, planted):
    def lacks(*_):
        raise PlanError("no Conv")

    planted(None, compiles=lacks)
    assert "backend 'planted' cannot load the checkpoint: PlanError: no Conv" in refused(
        net, tmp_path
    )


def test_where_no_backend_runs_nothing_is_called_verified(net, tmp_path, monkeypatch):
    class Absent(ReferenceBackend):
        def available(self):
            return backend.Availability(False, "install something")

    monkeypatch.setattr(sys.modules["runtime.reference.backend"], "Absent", Absent, raising=False)
    monkeypatch.setattr(backend, "BACKENDS", {"absent": "runtime.reference.backend:Absent"})
    assert "no backend can run here: backend 'absent' cannot run here: install" in refused(
        net, tmp_path
    )
    monkeypatch.setattr(
        backend, "BACKENDS", {"absent": "runtime.reference.backend:Absent", **REFERENCE}
    )
    text = invoke(net, tmp_path / "out.safetensors")[0]
    assert "not verified: backend 'absent' cannot run here: install something" in text


def declared(batch, folder, shape=None):
    """Return the network as a file whose inputs and outputs declare a batch."""
    model = zoo.to_onnx(small_network.make(), small_network.SIZE)
    for value in (*model.graph.input, *model.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        if isinstance(batch, str):
            first.dim_param = batch
        else:
            first.dim_value = batch
    del model.graph.value_info[:]
    if shape is not None:
        name = model.graph.output[0].name
        model.graph.node[-1].output[0] = "whole"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.int64(shape), "shape"))
        model.graph.node.append(onnx.helper.make_node("Reshape", ["whole", "shape"], [name]))
        dims = model.graph.output[0].type.tensor_type.shape.dim
        for dim, size in zip(dims, shape, strict=True):
            dim.dim_value = size
    onnx.save(model, folder / "net.onnx")
    return folder / "net.onnx"


@pytest.mark.parametrize("batch", ["n", 1, 2, 5])
def test_a_batch_that_only_the_file_fixes_is_open(tmp_path, batch):
    report = json.loads(
        invoke(declared(batch, tmp_path), tmp_path / "out.safetensors", "--json")[0]
    )
    assert report["verification"]["batches"] == [*BATCHES, FULL_BATCH]
    assert report["difference"] < 1e-5


def test_a_fixed_batch_is_all_there_is_and_said(tmp_path):
    net, out = declared(2, tmp_path, (5, 2)), tmp_path / "out.safetensors"
    assert "the network's batch is fixed: batch 2 is all that ran" in invoke(net, out)[0]
    told = json.loads(invoke(net, out, "--json")[0])["verification"]
    assert (told["batches"], told["open_batch"]) == ([2], False)


def test_large_inputs_are_not_run_in_full_batches(net, tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "FULL_NUMBERS", FULL_BATCH * 3 * small_network.SIZE**2 - 1)
    report = json.loads(invoke(net, tmp_path / "out.safetensors", "--json")[0])
    assert report["verification"]["batches"] == list(BATCHES)


def test_a_source_that_cannot_be_run_is_said(net, tmp_path, monkeypatch):
    import onnxruntime

    def fails(*_, **__):
        raise RuntimeError("not\nimplemented")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    assert "net.onnx: onnxruntime cannot run it" in refused(net, tmp_path)
