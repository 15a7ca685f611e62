"""The cases timed on a GPU: single layers, layers of a ticket, whole networks; and our side."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import zoo
from numpy.typing import NDArray

import runtime
from benchmarks.cpu import networks
from masktools.checkpoint import Checkpoint
from masktools.checkpoint.weights import SparseWeight
from masktools.export import from_onnx
from masktools.layout import BlockLayout
from masktools.network.graph import Graph, Node, Value
from runtime.cuda.backend import CudaBackend
from runtime.cuda.device import Device
from runtime.cuda.executable import Built
from runtime.cuda.program import build
from runtime.cuda.tuning import chooser
from runtime.model import Model
from runtime.plan import cost
from runtime.plan import plan as plans
from runtime.plan.plan import Plan
from runtime.reference.backend import ReferenceBackend

Shape = tuple[int, int, int, int]

# Largest error over largest number: roundings of the type through a network of random weights.
TOLERANCE = {"float32": 1e-4, "tf32": 1e-2, "float16": 1e-2}
# Runs of a layer that are timed as one.
COPIES = 10


def grouped(shape: Shape, height: int, density: float) -> SparseWeight:
    """Return random weights whose row groups of a height keep columns of their own."""
    random = np.random.default_rng(0)
    mask = networks.grouped(shape, density, height, random)
    scale = np.float32(1 / np.sqrt(density * mask[0].size))
    weight = random.standard_normal(shape, np.float32) * scale
    return SparseWeight.from_dense(weight, BlockLayout.from_mask(mask))


def ticket(path: Path) -> dict[str, SparseWeight]:
    """Return the layers of a ticket that is kept as blocks, with random weights."""
    random = np.random.default_rng(0)
    names = list(json.loads(path.read_text())["layers"])
    layers = {}
    for name, mask in networks.ticket_masks(path, names).items():
        layout = BlockLayout.from_mask(mask)
        scale = np.float32(1 / np.sqrt(layout.density * layout.columns))
        weight = random.standard_normal(mask.shape, np.float32) * scale
        layers[name] = SparseWeight.from_dense(weight, layout)
    return layers


def layer_plan(weight: SparseWeight, size: int, epilogue: bool) -> Plan:
    """Return a padded convolution, with bias and ReLU or alone."""
    rows, channels, kh, kw = weight.layout.shape
    pads = (kh // 2, kw // 2) * 2
    window = {"strides": (1, 1), "dilations": (1, 1), "pads": pads, "group": 1}
    inputs = ("x", "layer.weight", *(["layer.bias"] if epilogue else []))
    nodes = [Node("layer", "Conv", inputs, ("a",), window)]
    if epilogue:
        nodes.append(Node("relu", "Relu", ("a",), ("b",), {}))
    constants = {"layer.bias": np.zeros(rows, np.float32)} if epilogue else {}
    graph = Graph(
        (Value("x", (None, channels, size, size)),),
        (Value(nodes[-1].outputs[0], (None, rows, size, size)),),
        tuple(nodes),
        constants,
    )
    return plans.build(Checkpoint(graph, {"layer": weight}))


def layer_seconds(
    device: Device, weight: SparseWeight, size: int, batch: int, dtype: str, epilogue: bool = True
) -> dict[str, Any]:
    """Return how long our kernels take for a layer, which were chosen, and how far they err."""
    plan = layer_plan(weight, size, epilogue)
    program = build(plan, batch, dtype, chooser(device, plan, batch, CudaBackend().tuned))
    built = Built(device, program)
    x = np.random.default_rng(1).standard_normal((batch, weight.layout.shape[1], size, size))
    x = x.astype(np.float32)
    (y,) = built.run({"x": device.cupy.asarray(x)}, None).values()
    few = slice(0, 2)  # The reference takes its time.
    wanted = Model(plan, ReferenceBackend())(x[few])
    check(device.cupy.asnumpy(y[few]), wanted, dtype, f"layer {weight.layout.shape}")
    taken = [built.seconds(COPIES) for _ in range(7)]
    used = program.configurations[0]
    return {
        "seconds": median(taken),
        "fastest": min(taken),
        "kernel": used.name,
        "split": used.split,
        "multiplications": cost.multiplications(plan, plan.steps[0], batch),
    }


def check(got: NDArray[Any], wanted: NDArray[Any], dtype: str, what: str) -> float:
    """Return the largest error over the largest number; figures of a wrong result are worth none.

    Raises
    ------
    RuntimeError
    """
    error = float(np.abs(got - wanted).max() / np.abs(wanted).max())
    if not error <= TOLERANCE[dtype]:
        raise RuntimeError(f"{what}, {dtype}: off by {error:.2g} of the largest number")
    return error


# --- whole networks ------------------------------------------------------------------------------


def export(
    folder: Path, network: str, masks: Mapping[str, NDArray[np.bool_]] | None, name: str
) -> Path:
    """Return the checkpoint of a network under masks, made if it is not there."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        size = zoo.ZOO[network][2]
        from_onnx(zoo.to_onnx(zoo.make(network), size), path, masks=masks, residual="keep")
    return path


def masks_of(network: str, height: int, density: float) -> dict[str, NDArray[np.bool_]]:
    """Return masks of row groups for every convolution but the first."""
    variant = networks.Variant(network, f"height-{height}", density)
    masks = networks.make_masks(zoo.make(network), variant, None)
    assert masks is not None
    return masks


def ticket_masks(network: str, path: Path) -> dict[str, NDArray[np.bool_]]:
    """Return the masks of a ticket for a network's convolutions."""
    parts = zoo.make(network).named_modules()
    layers = [name for name, part in parts if isinstance(part, torch.nn.Conv2d)]
    return networks.ticket_masks(path, layers)


def images(network: str, batch: int) -> NDArray[np.float32]:
    size = zoo.ZOO[network][2]
    return np.random.default_rng(1).standard_normal((batch, 3, size, size), np.float32)


def multiplications(path: Path, batch: int) -> int:
    """Return the multiplications of a network by stored weights of inputs inside the image."""
    plan = runtime.load(path, "reference").plan
    return sum(cost.multiplications(plan, step, batch) for step in plan.steps)


def network_seconds(
    device: Device, path: Path, x: NDArray[np.float32], dtype: str
) -> dict[str, Any]:
    """Return how long a network takes from CuPy array to CuPy array, and how far it errs.

    Returns
    -------
    dict
        `seconds`: of a call, on the device, calls one after another. `steps`: without the copies
        in and out. `host`: until a call returns, while the device still works.
    """
    model = runtime.load(path, "cuda", dtype)
    given = device.cupy.asarray(x)
    y = model(given)
    few = slice(0, 2)
    wanted = runtime.load(path, "reference")(x[few])
    error = check(device.cupy.asnumpy(y[few]), wanted, dtype, path.stem)
    cuda, calls, taken, host = device.cupy.cuda, 20, [], []
    for _ in range(7):
        begin, end = cuda.Event(), cuda.Event()
        model.backend.synchronize()
        begin.record()
        start = time.perf_counter()
        for _ in range(calls):
            model(given)
        host.append((time.perf_counter() - start) / calls)
        end.record()
        end.synchronize()
        taken.append(cuda.get_elapsed_time(begin, end) / 1e3 / calls)
    (built,) = (e.built for e in model._compiled.values() if e.built is not None)
    return {
        "seconds": median(taken),
        "steps": median(built.seconds(1) for _ in range(7)),
        "host": min(host),
        "error": error,
        "kernels": [c.name for c in built.program.configurations],
    }
