"""Which variant of the CPU kernels is taken, and what is said where none can be."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from runtime import backend
from runtime.cpu import native
from runtime.cpu.backend import CpuBackend
from runtime.errors import BackendUnavailable

EVERYTHING = {name: True for needs in native.VARIANTS.values() for name in needs}


@pytest.fixture
def machine(monkeypatch):
    """Return a function that sets which variants were built and what the processor has."""
    monkeypatch.delenv(native.VARIABLE, raising=False)

    def build(features, built=("avx512", "avx2", "portable")):
        def module(variant):
            if variant not in built:
                raise ModuleNotFoundError(f"No module named 'runtime.cpu._{variant}'")
            return SimpleNamespace(isa=variant, lanes=4, features=lambda: features)

        monkeypatch.setattr(native, "_module", module)

    return build


@pytest.mark.parametrize(
    ("missing", "taken"),
    [((), "avx512"), (("avx512vl",), "avx2"), (("avx512f", "fma"), "portable")],
)
def test_the_best_that_the_processor_has_is_taken(machine, missing, taken):
    machine({name: name not in missing for name in EVERYTHING})
    assert native.load().isa == taken


def test_a_variant_that_was_not_built_is_passed_over(machine):
    machine(EVERYTHING, built=("avx2", "portable"))
    assert native.load().isa == "avx2"


@pytest.mark.parametrize("variant", native.VARIANTS)
def test_the_variable_forces_a_variant(machine, monkeypatch, variant):
    machine(EVERYTHING)
    monkeypatch.setenv(native.VARIABLE, variant)
    assert native.load().isa == variant


@pytest.mark.parametrize(
    ("value", "features", "built", "reason"),
    [
        ("sse2", EVERYTHING, ("portable",), "there are avx512, avx2, portable"),
        ("", EVERYTHING, ("portable",), "there are avx512, avx2, portable"),
        ("avx512", {}, ("avx512", "portable"), "the processor lacks avx512f, avx512bw"),
        ("avx2", EVERYTHING, ("avx512", "portable"), "avx2: this variant was not built"),
    ],
)
def test_a_wish_that_cannot_be_met_is_refused(machine, monkeypatch, value, features, built, reason):
    machine(features, built)
    monkeypatch.setenv(native.VARIABLE, value)
    with pytest.raises(BackendUnavailable, match=reason):
        native.load()
    availability = CpuBackend().available()
    assert not availability.ok
    assert reason in availability.detail


def test_without_kernels_the_reference_is_taken_and_that_is_said(machine):
    machine(EVERYTHING, built=())
    with pytest.raises(BackendUnavailable, match=r"were not built: install a C\+\+17 compiler"):
        native.load()
    with pytest.raises(BackendUnavailable, match="'cpu' cannot run here: the kernels"):
        backend.choose("cpu")
    with pytest.warns(RuntimeWarning, match=r"reference.*cpu: the kernels of the CPU backend"):
        assert backend.choose("auto").name == "reference"
