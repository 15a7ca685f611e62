"""The layers that are partitioned: trained tickets, and random masks of real networks' shapes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import masktools

Layer = tuple[NDArray[np.bool_], NDArray[np.float32]]


def ticket(path: Path) -> dict[str, Layer]:
    """Return the masks and trained weights of a ticket's layers, without its first layer."""
    masks = masktools.load_masks(path)
    weights = masktools.load_weights(path)
    return {
        name: (mask, weights[name])
        for name, mask in masks.items()
        if mask.shape[1] > 1 and not mask.all()
    }


def resnet50_shapes() -> dict[str, tuple[int, int, int, int]]:
    """Return the weight shapes of ResNet-50's 53 convolutions."""
    shapes = {"conv1": (64, 3, 7, 7)}
    inputs = 64
    for stage, (width, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            shapes[f"{name}.conv1"] = (width, inputs, 1, 1)
            shapes[f"{name}.conv2"] = (width, width, 3, 3)
            shapes[f"{name}.conv3"] = (4 * width, width, 1, 1)
            if block == 0:
                shapes[f"{name}.downsample"] = (4 * width, inputs, 1, 1)
            inputs = 4 * width
    return shapes


def random_layer(shape: tuple[int, ...], density: float, seed: int = 0) -> Layer:
    """Return a mask of the largest of random weights: no structure, for timing alone."""
    weight = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    magnitude = np.abs(weight)
    cut = int((1 - density) * magnitude.size)
    mask = magnitude >= np.partition(magnitude.ravel(), cut)[cut]
    return mask, weight


def growth() -> Iterator[tuple[str, Layer]]:
    """Yield layers that grow in nonzeros alone, then in rows alone."""
    for density in (0.05, 0.1, 0.2, 0.4):
        yield "nonzeros", random_layer((512, 2304), density)
    for rows in (128, 256, 512, 1024, 2048):
        yield "rows", random_layer((rows, 1152), 0.2)
