"""The trial of a network tells equal from wrong."""

import sys

import numpy as np
import pytest
from paths import ROOT

sys.path.append(str(ROOT))

from benchmarks.networks import trial
from benchmarks.networks.trial import Trial, error_of

HALF = np.float32([1, 0.5])


@pytest.mark.parametrize("exporter", ["torchscript", "from_torch"])
def test_a_network_that_passes_is_equal_on_each_backend(exporter, tmp_path):
    row = Trial("handwritten", "espcn", tmp_path).run(exporter)
    assert (row["outcome"], row["batch"]) == ("equal", "open"), row
    errors = [value for name, value in row.items() if name.startswith("error")]
    assert len(errors) == 3
    assert max(errors) < 1e-5


def test_outputs_that_differ_are_wrong(tmp_path, monkeypatch):
    by_masktools = trial.by_masktools
    monkeypatch.setattr(trial, "by_masktools", lambda *a: [y * 1.01 for y in by_masktools(*a)])
    row = Trial("handwritten", "espcn", tmp_path).run("torchscript")
    assert row["outcome"] == "wrong"
    assert set(row["float64, cpu"]) >= {"pytorch", "onnxruntime"}


@pytest.mark.parametrize(
    ("found", "error"),
    [([HALF], 0), ([HALF * 2], 1), ([HALF, HALF], np.inf), ([HALF[:1]], np.inf),
     ([HALF * np.float32([1, np.nan])], np.inf)],
)  # fmt: skip
def test_errors_are_relative_to_the_largest_number(found, error):
    assert error_of(found, [HALF]) == error
