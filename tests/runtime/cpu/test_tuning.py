"""The tuner of the CPU backend: it times, remembers, and trusts no file that it finds."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from network_cases import NETWORKS, images, planned
from paths import GOLDEN

import runtime
from runtime.cpu import native, processor, tuning
from runtime.cpu.backend import TUNE, CpuBackend
from runtime.cpu.choice.choose import choose_ways
from runtime.cpu.choice.kernels import KERNELS
from runtime.cpu.kernels.problem import Problem, Way
from runtime.cpu.machine import Machine, machine_here
from runtime.cpu.memory.window import Window
from runtime.cpu.weights.row_groups import shape_of
from runtime.errors import PlanError
from runtime.model import Model
from runtime.reference.backend import ReferenceBackend
from runtime.tuning import Tuned

pytestmark = pytest.mark.skipif(
    not CpuBackend().available().ok, reason="the kernels of the CPU backend were not built"
)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MASKTOOLS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "LEAST_TIMING", 0.0)
    return tmp_path / "cache"


def run(tuned, batch=3):
    made = planned(NETWORKS[0])
    model = Model(made, CpuBackend(tuned=tuned), threads=2)
    got, want = model(images(batch)), Model(made, ReferenceBackend())(images(batch))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)
    return model


def chosen(model, batch=3, tuned=False):
    """Return the names of the choices that are remembered for a model's layers, in their order."""
    names = []
    for candidates, way in remembered(model, batch, tuned):
        names += [name for name, candidate in candidates.items() if candidate == way]
    return names


def remembered(model, batch=3, tuned=False):
    """Yield the candidates of each layer, and what is taken."""
    module = native.load()
    machine = machine_here(module.lanes, 2)
    shapes = {name: model.plan.shape(name, batch) for name in model.plan.shapes}
    proposed = choose_ways(model.plan, shapes, machine, KERNELS)
    tuner = tuning.Tuner(KERNELS, machine, module, "float32", None, tuned)
    for at, way in tuner.ways(model.plan, shapes, proposed).items():
        yield tuning.candidates_of(proposed[at], KERNELS, machine), way


def proposals(model):
    return [next(iter(candidates)) for candidates, _ in remembered(model)]


def test_without_tuning_nothing_is_written_and_the_proposal_is_taken(cache):
    model = run(tuned=False)
    assert not cache.exists()
    assert chosen(model) == proposals(model)


def test_choices_are_remembered_and_taken_without_tuning(cache):
    model = run(tuned=True)
    files = sorted(cache.iterdir())
    layers = [step for step in model.plan.steps if hasattr(step, "weight")]
    assert len(files) == len(layers)
    for path in files:
        entry = json.loads(path.read_text())
        entry["choice"] = "grouped, long tiles"
        path.write_text(json.dumps(entry))
    assert set(chosen(model)) == {"grouped, long tiles"} != set(proposals(model))
    run(tuned=False)
    before = {path: path.read_bytes() for path in files}
    run(tuned=True)
    assert {path: path.read_bytes() for path in sorted(cache.iterdir())} == before


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"choice": "default"}', b"\xff" * 100])
def test_damaged_entries_are_ignored_with_a_warning(cache, damage):
    model = run(tuned=True)
    for path in cache.iterdir():
        path.write_bytes(damage)
    with pytest.warns(RuntimeWarning, match="ignored: damaged"):
        assert chosen(model) == proposals(model)


def test_entries_of_other_machines_are_ignored(cache, monkeypatch):
    model = run(tuned=True)
    monkeypatch.setattr(tuning.processor, "model", lambda: processor.Model("another one"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen(model) == proposals(model)
    run(tuned=True)
    assert len({json.loads(p.read_text())["key"]["device"] for p in cache.iterdir()}) == 2


def test_a_choice_holds_for_its_problem_alone():
    """Another batch, another layer, another density: another key."""
    made = planned(NETWORKS[0])
    keys = set()
    for batch in (1, 2):
        shapes = {name: made.shape(name, batch) for name in made.shapes}
        for step in made.steps:
            if hasattr(step, "weight"):
                keys.add(json.dumps(tuning.problem_key(step, shapes)))
    layers = sum(hasattr(step, "weight") for step in made.steps)
    assert len(keys) == 2 * layers


@pytest.mark.parametrize("batch", [3, 16])
def test_every_candidate_computes_the_same(batch, monkeypatch):
    """Whichever is the fastest of a layer: another kernel, or another cut of its work."""
    made = planned(NETWORKS[0])
    x = images(batch)
    want = Model(made, ReferenceBackend())(x)
    model = Model(made, CpuBackend(), threads=2)
    most = max(len(candidates) for candidates, _ in remembered(model, batch))
    assert most > len(KERNELS)
    for number in range(most):

        def one(key, candidates, time, cache, number=number):
            way = list(candidates.values())[number % len(candidates)]
            assert time(way) > 0
            return Tuned(way, 1.0, remembered=False)

        monkeypatch.setattr(tuning, "tune", one)
        got = Model(made, CpuBackend(tuned=True), threads=2)(x)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


def test_kernels_are_candidates_if_they_can_compute_the_layer_in_its_memory():
    """Weights larger than dense ones are timed only where the network's memory has room."""
    weight = np.ones((64, 64, 3, 3), np.float32)
    window = Window((3, 3), pads=(1, 1))
    problem = Problem(weight, shape_of(weight), 32, 32, 64, (32, 32), window)
    machine = Machine(16, 2)
    proposed = {kernel.name: Way(kernel, problem) for kernel in KERNELS}
    names = list(tuning.candidates_of(proposed["winograd"], KERNELS, machine))
    assert names[:2] == ["winograd", "grouped"]
    assert not {"depthwise", "windows", "narrow"} & set(names)
    assert "grouped, long tiles" in names
    assert "winograd" not in tuning.candidates_of(proposed["grouped"], KERNELS, machine)


def test_tuning_is_asked_for_by_argument_or_environment(monkeypatch, tmp_path):
    golden = str(GOLDEN / "minimal.safetensors")
    assert runtime.load(golden, "cpu", tune=True).backend.tuned
    assert not runtime.load(golden, "cpu").backend.tuned
    monkeypatch.setenv(TUNE, "1")
    assert runtime.load(golden, "cpu").backend.tuned
    with pytest.raises(PlanError, match="'reference' has nothing to tune"):
        runtime.load(golden, "reference", tune=True)
