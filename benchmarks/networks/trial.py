"""Try one network: prune it, export it, run it on each backend, compare with PyTorch."""

from __future__ import annotations

import copy
import io
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import masktools
import runtime
from benchmarks.networks.families import Flat, Shape, build, leaves
from masktools.errors import MaskError, MasktoolsError

Arrays = list[NDArray[Any]]
TOLERANCE = 1e-3  # of the largest number in an output
AMPLIFIED = 10  # times the error of the others: minimal filtering rounds more than they do
DENSITY = 0.2
BACKENDS = ("reference", "cpu")
LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)


def pruned(module: nn.Module) -> dict[str, NDArray[np.bool_]]:
    """Set four of five weights in every other layer to zero, the smallest; return the masks."""
    masks = {}
    layers = [(n, m) for n, m in module.named_modules() if isinstance(m, LAYERS)]
    for name, layer in layers[1::2]:
        weight = layer.weight
        keep = max(1, round(weight.numel() * DENSITY))
        standardised = "Std" in type(layer).__name__  # Its zeros are numbers when it runs.
        if weight.numel() < 64 or not weight.is_leaf or standardised:
            continue
        threshold = weight.detach().abs().flatten().kthvalue(weight.numel() - keep + 1).values
        mask = weight.detach().abs() >= threshold
        with torch.no_grad():
            weight.mul_(mask)
        masks[name] = mask.numpy()
    return masks


def calibrate(module: nn.Module, shape: Shape) -> None:
    """Give batch normalisation the statistics of noise, so that no layer blows its input up."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        module(noise(4, shape, seed=1))
    for norm in norms:
        norm.eval()
        norm.momentum = 0.1


def noise(batch: int, shape: Shape, seed: int) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))


def onnx_of(module: nn.Module, x: Tensor, exporter: str) -> onnx.ModelProto:
    """Return the network as one of PyTorch's two exporters writes it."""
    file = io.BytesIO()
    if exporter == "torchscript":
        torch.onnx.export(module, (x,), file, dynamo=False)
        return onnx.load_from_string(file.getvalue())
    program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    return program.model_proto


def error_of(found: Sequence[NDArray[Any]], wanted: Sequence[NDArray[Any]]) -> float:
    """Return the largest difference, relative to the largest number of each output."""
    worst = 0.0
    if len(found) != len(wanted):
        return float("inf")
    for a, b in zip(found, wanted, strict=True):
        if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return float("inf")
        ok = np.isfinite(b)
        a, b = a[ok].astype(np.float64), b[ok].astype(np.float64)
        if b.size:
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)))
    return worst


def by_torch(module: nn.Module, x: Tensor) -> Arrays:
    with torch.no_grad():
        return [leaf.numpy() for leaf in leaves(module(x))]


def by_onnxruntime(model: onnx.ModelProto, x: Tensor) -> Arrays:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {session.get_inputs()[0].name: x.numpy()}))


def by_masktools(model: runtime.Model, x: Tensor) -> Arrays:
    got = model(x.numpy())
    return list(got.values()) if isinstance(got, dict) else [got]


class Trial:
    """One network, ready to be exported.

    Parameters
    ----------
    family, name : str
    folder : Path
        For the checkpoint.
    """

    def __init__(self, family: str, name: str, folder: Path) -> None:
        torch.set_num_threads(1)
        self.file = folder / "net.safetensors"
        self.module, self.shape = build(family, name)
        calibrate(self.module, self.shape)
        self.masks = pruned(self.module)
        calibrate(self.module, self.shape)
        self.x = noise(1, self.shape, seed=2)
        with torch.no_grad():
            output = self.module(self.x)
        self.flat = self.module if isinstance(output, Tensor) else Flat(self.module).eval()
        self.row: dict[str, Any] = {}
        self.model: onnx.ModelProto | None = None

    def run(self, exporter: str) -> dict[str, Any]:
        """Return how the network fares by way of one exporter."""
        self.row = {"exporter": exporter}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._export(exporter)
            self.row["outcome"] = "equal"
            for backend in BACKENDS:
                self._run(backend)
        except _ExporterError as error:
            self.row |= {"outcome": "exporter failed", "message": _short(error.args[0])}
        except (MasktoolsError, runtime.PlanError, runtime.InputError) as error:
            self.row |= {"outcome": "refused", "message": str(error)}
        return self.row

    def _export(self, exporter: str) -> None:
        module = copy.deepcopy(self.flat)
        options = {"masks": self.masks, "residual": "keep"}
        start = time.perf_counter()
        if exporter == "from_torch":
            masktools.export.from_torch(module, self.x, self.file, **options)
            self.row["export_s"] = _since(start)
            return
        try:
            self.model = onnx_of(module, self.x, exporter)
        except Exception as error:
            raise _ExporterError(error) from error
        self.row["onnx_s"] = _since(start)
        start = time.perf_counter()
        try:
            masktools.export.from_onnx(self.model, self.file, **options)
        except MaskError as error:  # Such as masks of heads that are left out.
            self.row["masks"] = str(error)
            masktools.export.from_onnx(self.model, self.file, residual="keep")
        self.row["export_s"] = _since(start)

    def _run(self, backend: str) -> None:
        start = time.perf_counter()
        ready = runtime.load(self.file, backend=backend)
        is_open = ready.inputs[0].shape[0] is None
        self.row["batch"] = "open" if is_open else "fixed"
        self._compare(backend, ready, self.x)
        if is_open and backend != "reference":
            self._compare(f"{backend}, batch 3", ready, noise(3, self.shape, seed=3))
        self.row[f"{backend}_s"] = _since(start)

    def _compare(self, what: str, ready: runtime.Model, x: Tensor) -> None:
        """Compare with PyTorch; where that differs, all with PyTorch in float64."""
        found, wanted = by_masktools(ready, x), by_torch(self.flat, x)
        self.row[f"error, {what}"] = error = error_of(found, wanted)
        if error <= TOLERANCE:
            return
        exact = by_torch(copy.deepcopy(self.flat).double(), x.double())
        errors = {"masktools": error_of(found, exact), "pytorch": error_of(wanted, exact)}
        if self.model is not None and len(x) == 1:
            errors["onnxruntime"] = error_of(by_onnxruntime(self.model, x), exact)
        self.row[f"float64, {what}"] = errors
        ours = errors.pop("masktools")
        if ours > max(TOLERANCE, AMPLIFIED * max(errors.values())):
            self.row["outcome"] = "wrong"
        elif ours > TOLERANCE and self.row["outcome"] == "equal":
            self.row["outcome"] = "ill-conditioned"


class _ExporterError(Exception):
    """PyTorch's exporter failed."""


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 1)


def _short(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])[:300]}"
