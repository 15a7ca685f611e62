"""The tuner of the CPU backend: it times, remembers, and trusts no file that it finds."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from network_cases import NETWORKS, images, planned
from paths import GOLDEN

import runtime
from runtime.cpu import tuning
from runtime.cpu.backend import TUNE, CpuBackend
from runtime.errors import PlanError
from runtime.model import Model
from runtime.reference import ReferenceBackend

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


def chosen(model, batch=3):
    """Return the choices that a model makes for its layers, in their order."""
    shapes = {name: model.plan.shape(name, batch) for name in model.plan.shapes}
    module = cpu_tuning_module()
    configure = tuning.chooser(
        model.plan, shapes, cpu_tuning_machine(module), module, None, tuned=False
    )
    return [configure(step) for step in model.plan.steps if hasattr(step, "weight")]


def cpu_tuning_module():
    from runtime.cpu import native

    return native.load()


def cpu_tuning_machine(module):
    from runtime.cpu.machine import Machine

    return Machine(module.lanes, 2)


def test_without_tuning_nothing_is_written_and_the_proposal_is_taken(cache):
    model = run(tuned=False)
    assert not cache.exists()
    assert set(chosen(model)) == {tuning.CANDIDATES["default"]}


def test_choices_are_remembered_and_taken_without_tuning(cache):
    model = run(tuned=True)
    files = sorted(cache.iterdir())
    layers = [step for step in model.plan.steps if hasattr(step, "weight")]
    assert len(files) == len(layers)
    for path in files:
        entry = json.loads(path.read_text())
        entry["choice"] = "long tiles"
        path.write_text(json.dumps(entry))
    assert set(chosen(model)) == {tuning.CANDIDATES["long tiles"]}
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
        assert set(chosen(model)) == {tuning.CANDIDATES["default"]}


def test_entries_of_other_machines_are_ignored(cache, monkeypatch):
    model = run(tuned=True)
    monkeypatch.setattr(tuning, "processor", lambda: "another one")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(chosen(model)) == {tuning.CANDIDATES["default"]}
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


def test_every_candidate_computes_the_same():
    made = planned(NETWORKS[0])
    x = images(16)
    want = Model(made, ReferenceBackend())(x)
    for configuration in tuning.CANDIDATES.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(tuning.CANDIDATES, "default", configuration)
            got = Model(made, CpuBackend(), threads=2)(x)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-3)


def test_tuning_is_asked_for_by_argument_or_environment(monkeypatch, tmp_path):
    golden = str(GOLDEN / "minimal.safetensors")
    assert runtime.load(golden, "cpu", tune=True).backend.tuned
    assert not runtime.load(golden, "cpu").backend.tuned
    monkeypatch.setenv(TUNE, "1")
    assert runtime.load(golden, "cpu").backend.tuned
    with pytest.raises(PlanError, match="'reference' has nothing to tune"):
        runtime.load(golden, "reference", tune=True)
