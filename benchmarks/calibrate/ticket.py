"""A ticket for the digits with its network, converted, calibrated, retrained, and tested."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import masktools
import runtime
from masktools.calibration.columns import column_norms
from masktools.conversion.convert import converted_layers
from masktools.conversion.result import Conversion
from masktools.export.exporting import prepare
from masktools.network.graph import Graph
from masktools.network.onnx.reader import read_onnx

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
sys.path.insert(0, str(DIGITS))

from export_network import network_from, write_onnx  # noqa: E402 - beside the example
from networks import NETWORKS  # noqa: E402
from training import Digits, accuracy, digits, train  # noqa: E402

Images = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Ticket:
    """A ticket, its network, and the images that it is calibrated and tested on.

    Parameters
    ----------
    path : Path
        Of `examples/digits/make_ticket.py`: ``<model>_round<NN>.safetensors``.
    """

    path: Path
    masks: masktools.Masks
    weights: dict[str, NDArray[np.float32]]
    network: Path
    graph: Graph
    data: tuple[Digits, Digits]

    @classmethod
    def read(cls, path: Path, folder: Path) -> Ticket:
        """Return a ticket; its network is exported to a folder."""
        model = path.name.split("_")[0]
        network, size = folder / "network.onnx", NETWORKS[model].image_size
        write_onnx(network_from(path, model), network, size)
        masks, weights = masktools.load_masks(path), masktools.load_weights(path)
        return cls(path, masks, weights, network, read_onnx(network), digits(size))

    @property
    def images(self) -> Images:
        """The training images, without their labels."""
        return self.data[0].images.numpy()

    def source(self) -> float:
        """Return the share of the test images that the ticket itself has right."""
        checkpoint, _ = prepare(self.network, residual="keep")
        return self._share(runtime.prepare(checkpoint)(self.data[1].images.numpy()))

    def converted(self, height: int, density: float, saliency: str, count: int) -> Conversion:
        """Return the ticket in blocks; saliencies from inputs see as many as calibration."""
        norms = None
        if saliency != "magnitude":
            layers = converted_layers(self.masks, self.graph)
            norms = column_norms(
                self.graph, layers, saliency, self.images[:count], run=runtime.prepare
            )
        return masktools.convert(
            self.masks, self.weights, method="regroup", density=density, group_rows=height,
            graph=self.graph, saliency=saliency, norms=norms, progress=False,
        )  # fmt: skip

    def calibrated(self, result: Conversion, count: int, method: str) -> tuple[Conversion, float]:
        """Return a calibrated result, and the seconds that it took."""
        start = time.perf_counter()
        found = masktools.calibrate(
            self.graph, result, self.images[:count], run=runtime.prepare, method=method,
            progress=False,
        )  # fmt: skip
        return result.calibrated(found), time.perf_counter() - start

    def right(self, result: Conversion) -> float:
        """Return the share of the test images that a result has right."""
        values = dict(result.values) or None
        checkpoint, _ = prepare(
            self.network, layouts=result.layouts, residual="drop", values=values
        )
        return self._share(runtime.prepare(checkpoint)(self.data[1].images.numpy()))

    def retrained(self, result: Conversion, epochs: int) -> tuple[float, float]:
        """Train the ticket under a result's masks, with labels; return share right and seconds."""
        network = network_from(self.path, self.path.name.split("_")[0])
        masks = {f"{name}.weight": torch.from_numpy(m) for name, m in result.masks.items()}
        start = time.perf_counter()
        train(network, self.data[0], masks, epochs, seed=0)
        seconds = time.perf_counter() - start
        return accuracy(network, self.data[1]), seconds

    def _share(self, logits: Images) -> float:
        return float((logits.argmax(axis=1) == self.data[1].labels.numpy()).mean())
