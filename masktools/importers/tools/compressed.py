"""compressed-tensors: a bitmask for the positions, the kept values behind one another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.errors import FormatError
from masktools.importers.contents import Array, Contents, check_room, count, join, suffixed
from masktools.importers.tool import Found, Names, Tool


def _matches(contents: Contents) -> bool:
    state = contents.state
    return any(
        join(name, "compressed") in state and join(name, "shape") in state
        for name, _ in suffixed(state, "bitmask")
    )


def _read(contents: Contents, _: Names) -> Found:
    masks: dict[str, Array] = {}
    weights: dict[str, Array] = {}
    for name, bits in suffixed(contents.state, "bitmask"):
        layer = "" if name == "weight" else name.removesuffix(".weight")
        if layer in masks:
            raise FormatError(f"{contents.path}: layer {layer!r} is stored twice")
        masks[layer], weights[layer] = _unpack(contents, name, bits)
    return Found(masks, weights, notes=["bitmasks were unpacked, lowest bit first"])


def _unpack(contents: Contents, name: str, bits: Array) -> tuple[NDArray[np.bool_], Array]:
    where = f"{contents.path}: layer {name!r}"
    parts = {}
    for leaf in ("shape", "compressed"):
        if join(name, leaf) not in contents.state:
            raise FormatError(f"{where}: has a bitmask, but no readable {join(name, leaf)!r}")
        parts[leaf] = contents.state[join(name, leaf)]
    shape = _shape(where, parts["shape"])
    packed = (*shape[:-1], -(-shape[-1] // 8))
    if bits.dtype != np.uint8 or bits.shape != packed:
        raise FormatError(
            f"{where}: shape {shape} needs a bitmask of {packed} bytes, got {bits.shape} of "
            f"{bits.dtype}"
        )
    check_room(contents.path, count(shape) * (1 + parts["compressed"].itemsize))
    mask = np.unpackbits(bits, axis=-1, count=shape[-1], bitorder="little").astype(np.bool_)
    values, kept = parts["compressed"], int(np.count_nonzero(mask))
    if values.size != kept:
        raise FormatError(
            f"{where}: the bitmask keeps {kept} weights, but {values.size} are stored"
        )
    offsets = contents.state.get(join(name, "row_offsets"))
    if offsets is not None:
        _check_offsets(where, offsets, mask)
    weight = np.zeros(shape, values.dtype)
    # For 2:4 sparsity the values form a matrix; in C order they are the same sequence.
    weight[mask] = values.ravel()
    return mask, weight


def _shape(where: str, array: Array) -> tuple[int, ...]:
    # The 2:4 form stores the shape as a column.
    if array.dtype.kind not in "iu" or not 0 < array.size <= 8:
        raise FormatError(
            f"{where}: a shape must be a few integers, got {array.dtype}{array.shape}"
        )
    shape = tuple(int(n) for n in array.ravel())
    if min(shape) < 1:
        raise FormatError(f"{where}: shape {shape}")
    return shape


def _check_offsets(where: str, offsets: NDArray[Any], mask: NDArray[np.bool_]) -> None:
    rows = np.count_nonzero(mask, axis=-1)
    # The tool sums along the first axis alone, which for matrices gives each row's begin.
    expected = np.cumsum(rows, axis=0) - rows
    flat = np.cumsum(rows.ravel()) - rows.ravel()
    if not (np.array_equal(offsets, expected) or np.array_equal(offsets, flat)):
        raise FormatError(f"{where}: row_offsets contradict the bitmask")


TOOLS = (
    Tool(
        "compressed-tensors",
        "L.bitmask with L.compressed and L.shape",
        _matches,
        _read,
    ),
)
