"""Whole networks: the checkpoint computes what PyTorch and onnxruntime compute."""

from __future__ import annotations

import numpy as np
import pytest
import zoo

TOLERANCE = 1e-5

# Density, whether whole rows are kept, and what becomes of weights outside the blocks.
SETTINGS = {
    "dense": (1.0, False, "error"),
    "keep half": (0.5, False, "keep"),
    "keep a tenth": (0.1, False, "keep"),
    "drop half": (0.5, False, "drop"),
    "drop a tenth": (0.1, False, "drop"),
    "refill half": (0.5, True, "error"),
    "refill a tenth": (0.1, True, "error"),
}
LARGE = {"vgg16": 2, "resnet18-cifar": 3, "resnet18": 4, "resnet50": 5, "mobilenet-v1": 1}


@pytest.fixture(scope="module", params=zoo.ZOO)
def network(request):
    """A network of the zoo, as a module and as ONNX, with images."""
    module, size = zoo.make(request.param), zoo.ZOO[request.param][1]
    return (
        request.param,
        module,
        zoo.to_onnx(module, size),
        zoo.images(request.param, size),
    )


def test_checkpoints_compute_what_the_network_does(network):
    """Small networks in every setting; large ones in three, so that all settings meet some."""
    name, module, model, x = network
    chosen = list(SETTINGS)
    if name in LARGE:
        turn = LARGE[name]
        chosen = ["dense", chosen[1 + turn % 4], chosen[5 + turn % 2]]
    for setting in chosen:
        density, refilled, residual = SETTINGS[setting]
        masks = None
        if density < 1:
            masks = zoo.random_masks(module, density, refilled)
        found = zoo.deviations(module, model, masks, residual, x)
        assert max(found) <= TOLERANCE, (setting, found)
        assert np.isfinite(found).all()
