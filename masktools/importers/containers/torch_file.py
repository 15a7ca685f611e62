"""Read PyTorch's files and plain pickles without executing anything that they say."""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from masktools import limits
from masktools.errors import FormatError
from masktools.importers.containers.harmless import ALLOWED, Inert, PickledArray, encode_latin1
from masktools.importers.containers.pickle_cost import CostError, check_pickle
from masktools.importers.contents import Unreadable, check_room, first_line

if TYPE_CHECKING:
    import torch

_CALLED_BY_ALL = frozenset((*ALLOWED, "_codecs.encode"))
# What else torch.save writes; torch refuses all that is not on its own list.
_CALLED_BY_TORCH = _CALLED_BY_ALL | {
    "collections.OrderedDict",
    "collections.Counter",
    "builtins.set",
    "builtins.complex",
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
    "torch._tensor._rebuild_from_type_v2",
}
# What a pickle calls to make a tensor: torch.load of bytes, anything in them included.
_TENSOR_IN_A_PICKLE = "torch.storage._load_from_bytes"
# An older torch.save writes five pickles, and the storages' bytes behind them.
_LEGACY_PICKLES = 5


def read_torch(path: Path) -> object:
    """Return what ``torch.save`` wrote, tensors as arrays."""
    try:
        import torch
    except ImportError as error:
        raise FormatError(
            f"{path}: reading PyTorch's files needs torch: pip install 'masktools[torch]'"
        ) from error
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # as torch.load decides it
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
    rebuilders = {f"torch._utils.{name}" for name in vars(torch._utils) if "_rebuild_" in name}
    called = _CALLED_BY_TORCH | rebuilders | optimizers.keys()
    try:
        if zipped:
            # Of the reader that torch.load uses: another might find another pickle in the archive.
            _check(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl"), 1, called)
        else:
            _check(path.read_bytes(), _LEGACY_PICKLES, called)
        safe = torch.serialization.safe_globals(list(zip(allowed.values(), allowed, strict=True)))
        with safe, warnings.catch_warnings():
            # torch warns of sparse tensors, whose indices are checked before they are used.
            warnings.filterwarnings("ignore", message="Sparse ")
            # Mapped, no storage reaches beyond the file, whatever size it claims.
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
            return _Plain(path).convert(loaded)
    except (pickle.UnpicklingError, CostError) as error:
        raise _refused(path, error) from error


def read_pickle(path: Path) -> object:
    """Return the arrays of a plain pickle, in its lists and dicts; refuse any other object."""
    content = path.read_bytes()
    try:
        _check(content, 1, _CALLED_BY_ALL)
        loaded = _ArraysOnly(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, CostError) as error:
        raise _refused(path, error) from error
    return _Plain(path).convert(loaded)


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - pickle's own signature
        if (module, name) == ("_codecs", "encode"):
            return encode_latin1
        if f"{module}.{name}" in ALLOWED:
            return ALLOWED[f"{module}.{name}"]
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name}")


def _check(content: bytes, pickles: int, called: Collection[str]) -> None:
    file = io.BytesIO(content)
    for _ in range(pickles):
        check_pickle(file, called)


def _refused(path: Path, error: Exception) -> FormatError:
    if isinstance(error, CostError):
        return FormatError(
            f"{path}: refused before it is unpickled: {error}; save the state dict or the masks "
            "alone"
        )
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named and named[1] == _TENSOR_IN_A_PICKLE:
        return FormatError(
            f"{path}: tensors that pickle.dump wrote, which cannot be read without running what "
            "the file says; write them with torch.save, or as safetensors"
        )
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
        if depth > limits.PICKLE_DEPTH:
            return Unreadable("nested too deeply")
        if id(value) not in self.done:
            self.done[id(value)] = Unreadable("contains itself")
            self.done[id(value)] = self._convert(value, depth)
        done = self.done[id(value)]
        if isinstance(done, np.ndarray):
            self._count(done.size, done.itemsize)  # Once for each name: each becomes a mask.
        return done

    def _count(self, elements: int, itemsize: int) -> None:
        # A number may become a float32.
        self.bytes += elements * max(itemsize, 4)
        check_room(self.path, self.bytes)

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

        if tensor.is_quantized or tensor.is_meta:
            return Unreadable(f"a tensor of dtype {tensor.dtype} on {tensor.device}")
        # Strides of 0, or a sparse layout, let a few bytes pose as any number of elements.
        check_room(self.path, self.bytes + tensor.numel() * max(tensor.element_size(), 4))
        tensor = tensor.detach()
        if tensor.layout != torch.strided:
            tensor = _spread(tensor)
        if tensor.dtype.is_floating_point and tensor.dtype not in (
            torch.float16,
            torch.float32,
            torch.float64,
        ):
            tensor = tensor.float()  # bfloat16, and floats of 8 bits.
        try:
            array = tensor.numpy()
        except (TypeError, RuntimeError):
            return Unreadable(f"dtype {tensor.dtype}")
        return array if array.dtype.kind in "biuf" else Unreadable(f"dtype {tensor.dtype}")


def _spread(tensor: torch.Tensor) -> torch.Tensor:
    """Return a sparse tensor as a dense one, once its indices are known to lie inside it."""
    import torch

    if tensor.layout == torch.sparse_coo:
        torch._validate_sparse_coo_tensor_args(tensor._indices(), tensor._values(), tensor.size())
    else:
        by_row = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
        torch._validate_sparse_compressed_tensor_args(
            tensor.crow_indices() if by_row else tensor.ccol_indices(),
            tensor.col_indices() if by_row else tensor.row_indices(),
            tensor.values(),
            tensor.size(),
            tensor.layout,
        )
    if tensor.dtype == torch.bool:  # Of which torch adds up no duplicates.
        return tensor.to(torch.uint8).to_dense() != 0
    return tensor.to_dense()
