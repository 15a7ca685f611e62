"""The parts of the benchmarks that compute what is reported."""

import sys

import numpy as np
import pytest
from paths import ROOT

sys.path.append(str(ROOT))

from benchmarks.cpu import report
from benchmarks.cpu.networks import (
    Files,
    Variant,
    grouped,
    images,
    make,
    make_masks,
    unstructured,
    zoo,
)
from benchmarks.cpu.report import Measured, Size
from masktools import checkpoint
from runtime.cpu.backend import CpuBackend
from runtime.engines.turns import FEWEST, MOST, TURN, Engine, Times, runs_in_turn

DENSE, SPARSE = Variant("vgg16"), Variant("vgg16", "height-16", 0.2)


def test_ratios_are_taken_within_rounds():
    # A machine that is half as fast in the second round changes neither figure.
    ours, theirs = Times((1.0, 2.0, 1.0), (8.0, 4.0, 8.0)), Times((3.0, 6.0, 9.0), (8.0, 4.0, 8.0))
    assert report.speedup(ours, theirs) == 3.0
    assert report.share_of_peak(4, ours) == 0.5


def test_records_name_yardsticks_and_limit():
    def times(seconds):
        return Times((seconds,) * 3, (100e9,) * 3)

    measured = [
        Measured("onnxruntime", DENSE, times(4e-3), 0.0),
        Measured("deepsparse", DENSE, times(3e-3), 0.0),
        Measured("masktools", DENSE, times(2e-3), 0.0),  # ours is no peer
        Measured("deepsparse", SPARSE, times(1.5e-3), 0.0),
        Measured("mnn", SPARSE, times(2.5e-3), 0.0),
        Measured("masktools", SPARSE, times(1e-3), 0.0),
    ]
    sizes = {DENSE.name: Size(10**8, 1000), SPARSE.name: Size(2 * 10**7, 250)}
    rows = report.records(measured, sizes, batch=2, threads=1)
    last = rows[-1]
    assert {row["fastest_dense_peer"] for row in rows} == {"deepsparse"}
    assert last["over_fastest_dense_peer"] == pytest.approx(3)
    assert last["over_deepsparse"] == pytest.approx(1.5)
    assert last["over_mnn"] == pytest.approx(2.5)
    assert last["limit"] == pytest.approx(5)
    assert last["density_by_multiplications"] == pytest.approx(0.2)
    assert last["density_by_weights"] == pytest.approx(0.25)
    assert last["share_of_peak"] == pytest.approx(0.4)
    assert last["milliseconds"] == pytest.approx(1)
    assert rows[0]["over_deepsparse"] == pytest.approx(0.75)


def test_a_turn_has_enough_runs_and_not_too_many():
    assert runs_in_turn(TURN * 10) == FEWEST
    assert runs_in_turn(TURN / 10) == 10
    assert runs_in_turn(0.0) == MOST


@pytest.mark.parametrize("density", [0.1, 0.2])
@pytest.mark.parametrize("shape", [(64, 32, 3, 3), (60, 48, 1, 1)])
def test_masks_have_their_density_and_groups(shape, density):
    rng = np.random.default_rng(0)
    single = unstructured(shape, density, rng)
    assert single.sum() == round(density * single.size)
    mask = grouped(shape, density, 8, rng)
    assert mask.shape == shape
    assert mask.mean() == pytest.approx(density, rel=0.05)
    patterns, counts = np.unique(mask.reshape(len(mask), -1), axis=0, return_counts=True)
    assert len(patterns) == -(-shape[0] // 8)
    assert counts.max() == 8


def test_first_and_depthwise_layers_stay_dense():
    module = zoo.make("mobilenet-v1")
    masks = make_masks(module, Variant("mobilenet-v1", "unstructured", 0.2), None)
    assert len(masks) == 13
    assert all(mask.shape[2:] == (1, 1) for mask in masks.values())
    with pytest.raises(ValueError, match="--ticket"):
        make_masks(module, Variant("mobilenet-v1", "ticket"), None)


def test_a_network_from_elsewhere_is_exported_under_its_masks(tmp_path):
    variant = Variant("unet", "unstructured", 0.2)
    masks = make_masks(make("unet"), variant, None)
    found = checkpoint.read(Files(tmp_path, None).find(variant, 1, ".safetensors"))
    stored = sum(weight.stored for weight in found.sparse.values())
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert 0.99 * kept < stored <= kept  # Less the channels that the last layer does not read.
    assert images(variant, 2).shape == (2, 3, 256, 256)


@pytest.mark.skipif(
    not CpuBackend().available().ok, reason="the kernels of the CPU backend were not built"
)
def test_a_worker_measures_the_peak():
    engine = Engine("masktools", sys.executable)
    try:
        assert engine.ask("peak", threads=1, seconds=0.01)["multiplications"] > 0
    finally:
        engine.close()
