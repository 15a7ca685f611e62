"""What every backend promises, whichever it is: parametrised over all that are registered."""

from __future__ import annotations

import numpy as np
import pytest
from network_checks import Check, Way
from paths import GOLDEN
from random_networks import draw

from masktools.checkpoint import read
from runtime import backend
from runtime.errors import BackendUnavailable, PlanError
from runtime.model import Model
from runtime.plan import plan
from runtime.reference.backend import ReferenceBackend, ReferenceExecutable

# Random networks that each backend computes here; hundreds: test_random_networks.py.
SEEDS = range(12)


@pytest.fixture(params=backend.BACKENDS)
def name(request):
    return request.param


@pytest.fixture
def made(name):
    """Return a backend that can run here."""
    try:
        return backend.choose(name)
    except BackendUnavailable as error:
        return pytest.skip(str(error))


@pytest.fixture(scope="module")
def small():
    return plan.build(read(GOLDEN / "minimal.safetensors"))


def executable(made, small, batch=2):
    shapes = {value.name: small.shape(value.name, batch) for value in small.inputs}
    return made.compile(small, shapes, "float32", None)


def inputs(made, small, batch=2):
    random = np.random.default_rng(0)
    return {
        value.name: made.upload(
            random.standard_normal(small.shape(value.name, batch)).astype(np.float32)
        )
        for value in small.inputs
    }


def test_it_says_whether_it_can_run_and_on_what(name):
    module, _, attribute = backend.BACKENDS[name].partition(":")
    found = getattr(pytest.importorskip(module), attribute)()
    assert found.name == name
    assert found.tuned in (False, True)
    ok, detail = found.available()
    assert detail
    if not ok:
        with pytest.raises(BackendUnavailable, match=f"backend {name!r} cannot run here"):
            backend.choose(name)


def test_arrays_go_up_and_come_down_unchanged(made):
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    down = made.download(made.upload(x))
    made.synchronize()
    assert isinstance(down, np.ndarray)
    np.testing.assert_array_equal(down, x)


def test_a_type_that_it_lacks_is_refused_by_name(made, small):
    with pytest.raises(PlanError, match="float8"):
        Model(small, made, "float8")


def test_each_step_is_timed_on_request(made, small):
    seconds: list[float] = []
    executable(made, small).run(inputs(made, small), seconds)
    assert len(seconds) == len(small.steps)
    assert min(seconds) >= 0


def test_an_executable_keeps_inputs_and_gives_new_outputs(made, small):
    run = executable(made, small).run
    given = inputs(made, small)
    before = {name: made.download(x).copy() for name, x in given.items()}
    first = {name: made.download(y) for name, y in run(given).items()}
    assert set(first) == {value.name for value in small.outputs}
    kept = {name: y.copy() for name, y in first.items()}
    run({name: made.upload(x + 1) for name, x in before.items()})
    for name, x in before.items():
        np.testing.assert_array_equal(made.download(given[name]), x)
    for name, y in kept.items():
        np.testing.assert_array_equal(first[name], y)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_networks_are_computed_alike_every_time(made, name, seed):
    assert Check(draw(seed)).failure(Way(name)) is None


class Rounded(ReferenceExecutable):
    def run(self, inputs, seconds=None):
        return {n: np.round(y, 2) for n, y in super().run(inputs, seconds).items()}


class Kept(ReferenceExecutable):
    """One that writes each output over the one before."""

    def run(self, inputs, seconds=None):
        found = super().run(inputs, seconds)
        self.__dict__.setdefault("_last", {n: y.copy() for n, y in found.items()})
        for n, y in found.items():
            self._last[n][...] = y
        return dict(self._last)


@pytest.mark.parametrize(("kind", "seen"), [(Rounded, "wrong"), (Kept, "unsteady")])
def test_backends_that_break_a_promise_are_seen(kind, seen):
    class Planted(ReferenceBackend):
        def compile(self, *arguments):
            whole = super().compile(*arguments)
            whole.__class__ = kind
            return whole

    found = {
        failure.kind
        for seed in SEEDS
        if (failure := Check(draw(seed)).failure(Way("planted"), lambda _: Planted()))
    }
    assert seen in found
