"""Which variant of the CPU kernels is taken, and what is said where none can be."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from runtime import backend, cpu_isa
from runtime.cpu_backend import CpuBackend
from runtime.errors import BackendUnavailable

EVERYTHING = {name: True for needs in cpu_isa.VARIANTS.values() for name in needs}


@pytest.fixture
def machine(monkeypatch):
    """Return a function that sets which variants were built and what the processor has."""
    monkeypatch.delenv(cpu_isa.VARIABLE, raising=False)

    def build(features, built=("avx512", "avx2", "portable")):
        def module(variant):
            if variant not in built:
                raise ModuleNotFoundError(f"No module named 'runtime._cpu_{variant}'")
            return SimpleNamespace(isa=variant, lanes=4, features=lambda: features)

        monkeypatch.setattr(cpu_isa, "_module", module)

    return build


@pytest.mark.parametrize(
    ("missing", "taken"),
    [((), "avx512"), (("avx512vl",), "avx2"), (("avx512f", "fma"), "portable")],
)
def test_the_best_that_the_processor_has_is_taken(machine, missing, taken):
    machine({name: name not in missing for name in EVERYTHING})
    assert cpu_isa.load().isa == taken


def test_a_variant_that_was_not_built_is_passed_over(machine):
    machine(EVERYTHING, built=("avx2", "portable"))
    assert cpu_isa.load().isa == "avx2"


@pytest.mark.parametrize("variant", cpu_isa.VARIANTS)
def test_the_variable_forces_a_variant(machine, monkeypatch, variant):
    machine(EVERYTHING)
    monkeypatch.setenv(cpu_isa.VARIABLE, variant)
    assert cpu_isa.load().isa == variant


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
    monkeypatch.setenv(cpu_isa.VARIABLE, value)
    with pytest.raises(BackendUnavailable, match=reason):
        cpu_isa.load()
    availability = CpuBackend().available()
    assert not availability.ok
    assert reason in availability.detail


def test_without_kernels_the_reference_is_taken_and_that_is_said(machine):
    machine(EVERYTHING, built=())
    with pytest.raises(BackendUnavailable, match=r"were not built: install a C\+\+17 compiler"):
        cpu_isa.load()
    with pytest.raises(BackendUnavailable, match="'cpu' cannot run here: the kernels"):
        backend.choose("cpu")
    with pytest.warns(RuntimeWarning, match=r"reference.*cpu: the kernels of the CPU backend"):
        assert backend.choose("auto").name == "reference"
