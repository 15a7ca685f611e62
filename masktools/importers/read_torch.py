"""Read PyTorch's files and plain pickles without executing anything that they say."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masktools.errors import FormatError
from masktools.importers.contents import Unreadable, check_room, first_line
from masktools.importers.harmless import ALLOWED, Inert, PickledArray, encode_latin1

if TYPE_CHECKING:
    import torch

_MAX_DEPTH = 32


def read_torch(path: Path) -> object:
    """Return what ``torch.save`` wrote, tensors as arrays."""
    try:
        import torch
    except ImportError as error:
        raise FormatError(
            f"{path}: reading PyTorch's files needs torch: pip install 'masktools[torch]'"
        ) from error
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            if any(info.compress_type for info in archive.infolist()):
                raise FormatError(f"{path}: a compressed archive, which torch.save never writes")
    # An optimizer's class is named by checkpoints that store its type; only the name is needed.
    optimizers = {
        f"{value.__module__}.{value.__qualname__}": Inert
        for value in vars(torch.optim).values()
        if isinstance(value, type)
    }
    allowed: dict[str, Callable[..., Any]] = {**ALLOWED, **optimizers}
    try:
        with torch.serialization.safe_globals(list(zip(allowed.values(), allowed, strict=True))):
            # Mapped, no storage reaches beyond the file, whatever size it claims.
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    return _Plain(path).convert(loaded)


def read_pickle(path: Path) -> object:
    """Return what a plain pickle holds, if that is arrays in lists and dicts, and nothing else."""
    try:
        with path.open("rb") as file:
            loaded = _ArraysOnly(file).load()
    except pickle.UnpicklingError as error:
        raise _refused(path, error) from error
    return _Plain(path).convert(loaded)


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - pickle's own signature
        if (module, name) == ("_codecs", "encode"):
            return encode_latin1
        if f"{module}.{name}" in ALLOWED:
            return ALLOWED[f"{module}.{name}"]
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name}")


def _refused(path: Path, error: Exception) -> FormatError:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    detail = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    what = f"names {named[1]!r}" if named else detail[1] if detail else first_line(error)
    return FormatError(
        f"{path}: refused, for a pickle of other things than tensors and arrays could run code: "
        f"{what}; save the state dict or the masks alone"
    )


class _Plain:
    """Turns what was loaded into plain values; each object once, so that no sharing explodes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[int, object] = {}
        self.bytes = 0

    def convert(self, value: object, depth: int = 0) -> object:
        if depth > _MAX_DEPTH:
            return Unreadable("nested too deeply")
        if id(value) not in self.done:
            self.done[id(value)] = Unreadable("contains itself")
            self.done[id(value)] = self._convert(value, depth)
        return self.done[id(value)]

    def _convert(self, value: object, depth: int) -> object:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Mapping):
            return {k: self.convert(v, depth + 1) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.convert(v, depth + 1) for v in value]
        if isinstance(value, PickledArray):
            return value.value
        if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "layout"):
            return self._tensor(value)  # type: ignore[arg-type]
        return Unreadable(type(value).__name__)

    def _tensor(self, tensor: torch.Tensor) -> object:
        import torch

        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            return Unreadable(f"a tensor of layout {tensor.layout}, dtype {tensor.dtype}")
        # Strides of 0 let a few bytes pose as any number of elements.
        self.bytes += tensor.numel() * max(tensor.element_size(), 4)
        check_room(self.path, self.bytes)
        tensor = tensor.detach()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.float()
        try:
            array = tensor.numpy()
        except (TypeError, RuntimeError):
            return Unreadable(f"dtype {tensor.dtype}")
        return array if array.dtype.kind in "biuf" else Unreadable(f"dtype {tensor.dtype}")
