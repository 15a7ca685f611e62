"""The networks that engines are timed on, and the files that each engine reads them from.

Weights are random: how long a network takes does not depend on them. All files of a variant come
from one module with one set of masks, so that all engines compute the same function.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import zoo
from numpy.typing import NDArray
from torch import nn

from benchmarks.networks.families import build
from masktools.export import from_onnx

Mask = NDArray[np.bool_]

# Width of the image, and the batches that are timed.
SIZES = {
    "vgg16": 32,
    "resnet18-cifar": 32,
    "resnet50": 224,
    "mobilenet-v1": 224,
    "efficientnet-b0": 224,
    "unet": 256,
    "yolov8n": 640,
    "yolo11n": 640,
}
BATCHES = {"vgg16": (64, 1), "resnet18-cifar": (64, 1)} | {
    name: (8, 1) for name, size in SIZES.items() if size > 32
}
# Those that are not in the tests' zoo, by their family and name in `benchmarks.networks`.
ELSEWHERE = {
    "efficientnet-b0": ("torchvision", "efficientnet_b0"),
    "unet": ("handwritten", "unet"),
    "yolov8n": ("ultralytics", "yolov8n"),
    "yolo11n": ("ultralytics", "yolo11n"),
}


@dataclass(frozen=True)
class Variant:
    """A network under one set of masks.

    Parameters
    ----------
    network : str
        Its name in the zoo.
    structure : str
        "dense"; "unstructured"; "height-R": row groups of R rows; or "ticket".
    density : float or None
        Of every convolution but the first and those of groups, as depthwise; None for a ticket,
        which has its own in each layer.
    """

    network: str
    structure: str = "dense"
    density: float | None = None

    @property
    def name(self) -> str:
        name = f"{self.network}-{self.structure}"
        return name if self.density is None else f"{name}-{self.density:g}"


def unstructured(shape: tuple[int, ...], density: float, rng: np.random.Generator) -> Mask:
    """Keep single weights at random, exactly as many as the density says."""
    mask = np.zeros(int(np.prod(shape)), np.bool_)
    mask[rng.permutation(mask.size)[: round(density * mask.size)]] = True
    return mask.reshape(shape)


def grouped(shape: tuple[int, ...], density: float, height: int, rng: np.random.Generator) -> Mask:
    """Keep the columns of row groups that hold the most random saliency, as regrouping does.

    Rows of a group lie anywhere in the layer, and groups keep different numbers of columns.
    """
    rows, columns = shape[0], int(np.prod(shape[1:]))
    groups = -(-rows // height)
    saliency = rng.random((groups, columns)).ravel()
    kept = np.zeros(saliency.size, np.bool_)
    kept[np.argsort(saliency)[saliency.size - round(density * saliency.size) :]] = True
    mask = np.empty((rows, columns), np.bool_)
    mask[rng.permutation(rows)] = np.repeat(kept.reshape(groups, columns), height, axis=0)[:rows]
    return mask.reshape(shape)


def ticket_masks(path: Path, layers: list[str]) -> dict[str, Mask]:
    """Return the masks of a ticket that is kept as blocks, its layers in the network's order."""
    stored = json.loads(path.read_text())["layers"]
    masks = {}
    for name, layer in zip(layers, stored.values(), strict=True):
        mask = np.zeros((layer["shape"][0], int(np.prod(layer["shape"][1:]))), np.bool_)
        for rows, columns in layer["blocks"]:
            mask[np.ix_(rows, columns)] = True
        masks[name] = mask.reshape(layer["shape"])
    return masks


def make_masks(module: nn.Module, variant: Variant, ticket: Path | None) -> dict[str, Mask] | None:
    """Return a variant's masks by layer; None for a dense network."""
    if variant.structure == "dense":
        return None
    convolutions = {n: p for n, p in module.named_modules() if isinstance(p, nn.Conv2d)}
    if variant.structure == "ticket":
        if ticket is None:
            raise ValueError("the ticket's file was not given: --ticket PATH")
        return ticket_masks(ticket, list(convolutions))
    assert variant.density is not None
    rng = np.random.default_rng(0)
    masks = {}
    for name, part in list(convolutions.items())[1:]:
        if part.groups > 1 or not part.weight.requires_grad:
            continue
        shape = tuple(part.weight.shape)
        if variant.structure == "unstructured":
            masks[name] = unstructured(shape, variant.density, rng)
        else:
            height = int(variant.structure.removeprefix("height-"))
            masks[name] = grouped(shape, variant.density, height, rng)
    return masks


def images(variant: Variant, batch: int) -> NDArray[np.float32]:
    size = SIZES[variant.network]
    return np.random.default_rng(1).standard_normal((batch, 3, size, size), np.float32)


def make(network: str) -> nn.Module:
    """Return a network with random weights, in evaluation mode."""
    if network in zoo.ZOO:
        return zoo.make(network)
    module, _ = build(*ELSEWHERE[network])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        zoo.randomise(module)  # Else activations of an EfficientNet vanish.
    return module


class Files:
    """A folder of exported networks; each is made when it is first asked for.

    Parameters
    ----------
    folder : Path
    ticket : Path or None
    """

    def __init__(self, folder: Path, ticket: Path | None) -> None:
        self.folder = folder
        self.ticket = ticket
        folder.mkdir(parents=True, exist_ok=True)

    def find(self, variant: Variant, batch: int, suffix: str) -> Path:
        """Return the file that engines of a kind read: .safetensors, .onnx or .pt2."""
        stem = variant.name if suffix == ".safetensors" else f"{variant.name}-batch{batch}"
        path = self.folder / (stem + suffix)
        if not path.exists():
            beside = path.with_name("unfinished" + suffix)
            self._write(variant, batch, beside)
            beside.replace(path)
        return path

    def _write(self, variant: Variant, batch: int, path: Path) -> None:
        module = make(variant.network)
        masks = make_masks(module, variant, self.ticket)
        if path.suffix == ".safetensors":
            model = zoo.to_onnx(module, SIZES[variant.network])
            from_onnx(model, path, masks=masks, residual="keep")
            return
        parts = dict(module.named_modules())
        with torch.no_grad():
            for name, mask in (masks or {}).items():
                parts[name].weight *= torch.from_numpy(mask)
        example = (torch.from_numpy(images(variant, batch)),)
        if path.suffix == ".pt2":
            torch.export.save(torch.export.export(module, example), path)
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # The exporter whose files all peers read is the older.
            torch.onnx.export(module, example, str(path), dynamo=False, opset_version=13)
