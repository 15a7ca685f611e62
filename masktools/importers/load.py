"""The front door: masks and weights out of any file that a pruning tool wrote."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from masktools.checks import BoolArray
from masktools.errors import FormatError
from masktools.importers.containers.detect import VALUES, open_file
from masktools.importers.record import Record, Weights, checked_names, make_record
from masktools.importers.tool import Names as Names
from masktools.importers.tool import weights_of
from masktools.importers.tools.registry import choose

StrPath = str | os.PathLike[str]

_CALIBRATED = f"the weights are the calibrated ones, from {VALUES}"


@dataclass(frozen=True)
class LayerSummary:
    """A layer of a mask file: its name, shape, kept weights and kept / size."""

    name: str
    shape: tuple[int, ...]
    kept: int
    density: float


@dataclass(frozen=True)
class MaskFile:
    """A mask file's layers and weights, and how they were read.

    Parameters
    ----------
    path, container, tool : str
        The file, the container told by its content, and the tool told by its keys.
    layers : tuple of LayerSummary
        In the file's order. Where `refusal` says something, density 1 stands for unknown.
    weights : tuple of str
        Which weights it holds: "trained", "rewound".
    assumptions : tuple of str
        A sentence for each choice that was made in reading it.
    refusal : str
        Why `load_masks` refuses the file, and what would settle it; empty where it does not.
    """

    path: str
    container: str
    tool: str
    layers: tuple[LayerSummary, ...]
    weights: tuple[str, ...]
    assumptions: tuple[str, ...]
    refusal: str

    @property
    def density(self) -> float:
        """Kept weights / all weights, over all layers."""
        size = sum(int(np.prod(layer.shape)) for layer in self.layers)
        return sum(layer.kept for layer in self.layers) / size if size else 0.0


class Masks(dict[str, BoolArray]):
    """Masks by layer, and how they were read.

    Parameters
    ----------
    masks : mapping of str to ndarray of bool
    notes : sequence of str
        A sentence for each choice that was made in reading them.
    """

    def __init__(self, masks: Mapping[str, BoolArray], notes: Sequence[str] = ()) -> None:
        super().__init__(masks)
        self.notes = tuple(notes)


def load_masks(
    path: StrPath,
    tool: str | None = None,
    names: Names = None,
    threshold: float | None = None,
) -> Masks:
    """Load the masks that a pruning tool wrote.

    Parameters
    ----------
    path : path-like
        A file of any tool in docs/mask_formats.md, or a folder that ``masktools convert`` wrote.
    tool : str, optional
        The tool, where the file's keys leave it open; recognised by default.
    names : mapping of str to str, or sequence of str or None, optional
        The file's layer names mapped to the wanted ones; a sequence where the tool numbers its
        masks instead of naming them.
    threshold : float, optional
        For masks that are no plain 0 and 1 (scores, soft masks): kept is what is above it.

    Returns
    -------
    Masks
        A dict of bool arrays by layer, in the file's order: the parameter's name without
        ``.weight``. True = keep. Of the weight's shape: (out, in / groups, kh, kw),
        (out, in / groups, k) or (out, in). Its ``notes`` say what was assumed.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If the file is unknown, ambiguous, dense, damaged or hostile; it says what would settle it.
    MaskError
        If a layer's mask or weights are no mask or weights, or `names` does not fit.
    TypeError
        If `names` is of the wrong kind.

    Examples
    --------
    >>> import tempfile, pathlib, numpy as np
    >>> from masktools import load_masks, save_masks
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "masks.npz"
    >>> save_masks(file, {"conv1": np.eye(2, 3)})
    >>> load_masks(file)
    {'conv1': array([[ True, False, False],
           [False,  True, False]])}
    """
    record = _load(path, tool, names, threshold)
    if record.dense:
        raise FormatError(f"{record.path}: {record.dense}")
    return Masks(record.masks, record.notes)


def load_weights(
    path: StrPath,
    tool: str | None = None,
    names: Names = None,
    masked: bool = True,
    which: Literal["trained", "rewound"] = "trained",
    threshold: float | None = None,
) -> Weights:
    """Load the weights beside the masks, or those of a dense file.

    Parameters
    ----------
    path, tool, names, threshold
        As `load_masks`. A folder of ``masktools convert`` has weights where it was calibrated.
    masked : bool, default True
        Multiply the mask in. False returns what the file holds at pruned positions.
    which : "trained" or "rewound", default "trained"
        "rewound": the weights at the rewinding step, where the file holds them too.

    Returns
    -------
    dict of ndarray of float32
        By layer, each of its mask's shape: the layers that have a mask, or all layers of a file
        without masks. Always copies.

    Raises
    ------
    FormatError
        As `load_masks` (a plain dense file is no reason here), and if the file does not hold the
        weights that were asked for.
    MaskError, TypeError, FileNotFoundError
        As `load_masks`. Weights that are not finite are refused.

    Examples
    --------
    >>> import tempfile, pathlib, numpy as np
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "net.npz"
    >>> np.savez(file, fc=np.array([[0.5, 0.0], [0.0, -1.0]]))
    >>> load_weights(file)
    {'fc': array([[ 0.5,  0. ],
           [ 0. , -1. ]], dtype=float32)}
    """
    if which not in ("trained", "rewound"):
        raise ValueError(f"which must be 'trained' or 'rewound', got {which!r}")
    record = _load(path, tool, names, threshold)
    weights = record.trained if which == "trained" else record.rewound
    if not weights:
        raise FormatError(f"{record.path}: read as {record.tool}, it holds no {which} weights")
    missing = [layer for layer in record.masks if layer not in weights]
    if missing:
        raise FormatError(f"{record.path}: holds no {which} weights of {', '.join(missing)}")
    if masked and not record.applied:
        raise FormatError(f"{record.path}: {record.dense}; masked=False reads the dense weights")
    if masked:
        for layer, mask in record.masks.items():
            weights[layer][~mask] = 0
    else:
        _check_unmasked(record, weights)
    return weights


def inspect_masks(
    path: StrPath,
    tool: str | None = None,
    names: Names = None,
    threshold: float | None = None,
) -> MaskFile:
    """Tell what a mask file holds, and what was assumed in reading it.

    Parameters
    ----------
    path, tool, names, threshold
        As `load_masks`.

    Returns
    -------
    MaskFile
        Also for a dense file; its `refusal` then says why it has no masks.

    Raises
    ------
    FileNotFoundError, FormatError, MaskError, TypeError
        As `load_masks`.
    """
    record = _load(path, tool, names, threshold)
    # Where no mask is known, nothing is known to be pruned.
    masks = record.masks or {n: np.ones(w.shape, np.bool_) for n, w in record.trained.items()}
    held = (("trained", record.trained), ("rewound", record.rewound))
    return MaskFile(
        str(record.path),
        record.container,
        record.tool,
        tuple(_summary(name, mask) for name, mask in masks.items()),
        tuple(which for which, weights in held if weights),
        record.notes,
        record.dense,
    )


def _summary(name: str, mask: NDArray[np.bool_]) -> LayerSummary:
    kept = int(np.count_nonzero(mask))
    return LayerSummary(name, mask.shape, kept, kept / mask.size if mask.size else 0.0)


def _load(path: StrPath, tool: str | None, names: Names, threshold: float | None) -> Record:
    if tool is not None and not isinstance(tool, str):
        raise TypeError(f"tool must be a string, got {type(tool).__name__}")
    if threshold is not None and not isinstance(threshold, int | float):
        raise TypeError(f"threshold must be a number, got {type(threshold).__name__}")
    contents = open_file(Path(path))
    chosen = choose(contents, tool)
    names = checked_names(names, chosen.positional, chosen.name)
    found = chosen.read(contents, names)
    values = Path(path) / VALUES
    if values.is_file():
        calibrated = weights_of(open_file(values).state, found.masks)
        found = replace(found, weights=calibrated, notes=[*found.notes, _CALIBRATED])
    return make_record(contents, chosen, found, names, threshold)


def _check_unmasked(record: Record, weights: Weights) -> None:
    """Refuse where the file holds nothing but zeros at the pruned positions."""
    pruned = [layer for layer, mask in record.masks.items() if not mask.all()]
    if pruned and not any(weights[layer][~record.masks[layer]].any() for layer in pruned):
        raise FormatError(
            f"{record.path}: the weights are zero wherever they were pruned, so the file holds no "
            "unmasked ones; give the file from before the mask was applied"
        )
