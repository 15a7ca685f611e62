"""Whole networks on the CUDA backend, in every type, against the reference."""

from __future__ import annotations

import fake_cupy
import numpy as np
import pytest
from cuda_plans import normal, residual_network

from masktools.checkpoint import Checkpoint
from runtime.cuda.backend import CudaBackend
from runtime.model import Model
from runtime.plan import plan as plans
from runtime.reference.backend import ReferenceBackend


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    yield from fake_cupy.installed("emulated", monkeypatch, tmp_path)


# Lanes that are copied one by one, lanes beyond the batch, and whole copies of 16 bytes.
RUNS = [("float32", 1), ("float32", 9), ("tf32", 1), ("tf32", 8), ("float16", 1), ("float16", 8)]


def assert_close(got, wanted, dtype):
    tolerance = 1e-5 if dtype == "float32" else 5e-3
    for name, want in wanted.items():
        assert got[name].dtype == np.float32
        assert np.abs(got[name] - want).max() <= tolerance * np.abs(want).max()


@pytest.mark.parametrize(("dtype", "batch"), RUNS)
def test_a_whole_network_on_every_type(cupy, dtype, batch):
    plan, x = plans.build(Checkpoint(residual_network())), normal(batch, 4, 6, 6)
    assert_close(Model(plan, CudaBackend(), dtype)(x), Model(plan, ReferenceBackend())(x), dtype)


@pytest.mark.parametrize(("dtype", "batch"), [("float32", 8), ("float16", 1)])
def test_a_whole_network_on_an_older_device(monkeypatch, tmp_path, dtype, batch):
    """Without asynchronous copies, and with less shared memory."""
    fake_cupy.install(monkeypatch, tmp_path, capability=75, processors=40, shared=65536)
    plan, x = plans.build(Checkpoint(residual_network())), normal(batch, 4, 6, 6)
    assert_close(Model(plan, CudaBackend(), dtype)(x), Model(plan, ReferenceBackend())(x), dtype)
