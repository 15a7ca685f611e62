"""Read the inputs that a network is calibrated on, and their labels; say what does not fit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.calibration.sample_files import UNNAMED, Part, Stacked, read_parts
from masktools.errors import CalibrationError
from masktools.network.graph import Graph, Value
from masktools.network.sizes import Size

Array = NDArray[Any]

# Numbers that are looked at together: 64 MiB of float32.
PIECE = 2**24


def read_inputs(path: str | os.PathLike[str], graph: Graph) -> dict[str, Array | Stacked]:
    """Return the inputs of a network by name.

    Parameters
    ----------
    path : path-like
        A .npy file, for a network of one input; an .npz file with an array for each input under
        its name, or one without a name for a network of one input; or a folder of such files,
        which are joined along the first axis in the order of their names.
    graph : Graph

    Returns
    -------
    dict of str to ndarray or Stacked
        Of each input, shape (samples, ...) and dtype as the network takes them. A .npy file is
        mapped, an .npz file is read into memory, a folder gives `Stacked` arrays.

    Raises
    ------
    OSError
        If a file cannot be reached.
    FormatError
        If a file is no such file, damaged or hostile, or would execute code.
    CalibrationError
        If names, shape or dtype are not those of the network's inputs, there are no samples, one
        input has more of them than another, a number is not finite, or no input varies.
    """
    files = [_by_input(file, graph.inputs, path) for file in read_parts(path)]
    found = {value.name: [file[value.name] for file in files] for value in graph.inputs}
    for value in graph.inputs:
        for part in found[value.name]:
            _check_form(part, value, found[value.name][0])
    for file in files:
        _check_counts(file)
    # All of them are looked at: each may hold a number that is not finite.
    if not any([_varies(parts) for parts in found.values()]):  # noqa: C419
        raise CalibrationError(
            f"{path}: all samples are the same, so that nothing can be learned from them; give "
            "samples that differ"
        )
    return {
        name: parts[0].open() if len(parts) == 1 else Stacked(parts)
        for name, parts in found.items()
    }


def read_labels(path: str | os.PathLike[str], samples: int) -> NDArray[np.int64]:
    """Return the class of each sample.

    Parameters
    ----------
    path : path-like
        A .npy file, an .npz file with one array, or a folder of such files, as `read_inputs` joins
        them.
    samples : int
        The number of samples.

    Returns
    -------
    ndarray of int64, shape (samples,)

    Raises
    ------
    OSError, FormatError
        As `read_inputs`.
    CalibrationError
        If they are not whole numbers of one axis, one of them is negative, or there is another
        number of them than of samples.
    """
    parts: list[Part] = []
    for file in read_parts(path):
        if len(file) != 1:
            raise CalibrationError(
                f"{path}: expected one array of labels, got {_held(file)}; save the labels alone"
            )
        parts += file.values()
    for part in parts:
        if part.dtype.kind not in "iu" or len(part.shape) != 1 or not part.shape[0]:
            raise CalibrationError(
                f"{part.where}: expected labels as whole numbers of shape (samples,), got "
                f"{part.form}{_label_hint(part)}"
            )
    total = sum(part.shape[0] for part in parts)
    if total != samples:
        raise CalibrationError(
            f"{path}: {total} labels for {samples} samples; give one for each, in the same order"
        )
    return np.concatenate([_classes(part) for part in parts])


def _classes(part: Part) -> NDArray[np.int64]:
    labels = part.open()
    wrong = (labels < 0) | (labels > np.iinfo(np.int64).max)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise CalibrationError(
            f"{part.where}: the label at {at} is {labels[at]}; classes count from 0"
        )
    return labels.astype(np.int64)


def _label_hint(part: Part) -> str:
    if len(part.shape) == 2:
        return "; of scores by class take x.argmax(axis=1), of a single column x[:, 0]"
    fractional = len(part.shape) == 1 and part.dtype.kind == "f"
    return "; convert them by x.astype(numpy.int64)" if fractional else ""


def _by_input(
    file: Mapping[str, Part], inputs: Sequence[Value], path: str | os.PathLike[str]
) -> dict[str, Part]:
    """Return the arrays of a file by the inputs that they are for."""
    names = [value.name for value in inputs]
    if len(names) == 1 and list(file) == [UNNAMED]:
        return {names[0]: file[UNNAMED]}
    if set(file) == set(names):
        return dict(file)
    wanted = ", ".join(f"{value.name!r} {value.shape_text}" for value in inputs)
    where = next((part.file for part in file.values()), path)
    raise CalibrationError(
        f"{where}: the network takes {wanted}, but the file holds {_held(file)}; save an .npz file "
        "with an array for each input under its name"
    )


def _held(file: Mapping[str, Part]) -> str:
    names = ("one array without a name" if name == UNNAMED else repr(name) for name in file)
    return ", ".join(names) or "no arrays"


def _check_form(part: Part, value: Value, first: Part) -> None:
    """Raise unless an array has the dtype and shape of an input, and those of the first file."""
    same_shape = _fits(part.shape[1:], value) and bool(part.shape)
    if not same_shape or part.dtype != np.dtype(value.dtype):
        hints = [*_dtype_hint(part, value), *([] if same_shape else _shape_hint(part, value))]
        raise CalibrationError(
            f"{part.where}: holds {part.form}, but the network's input {value.name!r} takes "
            f"{value.dtype} of shape {value.shape_text}" + "".join(f"; {hint}" for hint in hints)
        )
    if not prod(part.shape):
        raise CalibrationError(f"{part.where}: its shape is {part.shape}: it holds no samples")
    if part.shape[1:] != first.shape[1:]:
        raise CalibrationError(
            f"{part.where}: holds {part.form}, but {first.where} holds {first.form}; samples must "
            "have one shape"
        )


def _fits(sample: tuple[int, ...], value: Value) -> bool:
    """Return whether samples of this shape are what an input takes."""
    wanted = value.shape[1:]
    return len(sample) == len(wanted) and all(
        isinstance(want, Size) or want in (None, have)
        for have, want in zip(sample, wanted, strict=True)
    )


def _dtype_hint(part: Part, value: Value) -> Iterator[str]:
    if value.dtype != "float32" or part.dtype == np.float32:
        return
    if part.dtype.kind in "biu":
        yield (
            "bring images into the form that the network was trained on, mostly "
            "x.astype(numpy.float32) / 255, less its mean and divided by its deviation"
        )
    else:
        yield "convert it by x.astype(numpy.float32)"


def _shape_hint(part: Part, value: Value) -> Iterator[str]:
    shape = part.shape
    if _fits(shape, value):
        yield "give a single sample an axis of samples by x[None]"
    elif len(shape) > 2 and _fits((shape[-1], *shape[1:-1]), value):
        yield "bring the channels to the front by numpy.moveaxis(x, -1, 1)"
    elif _fits((1, *shape[1:]), value):
        yield "give it an axis of channels by x[:, None]"


def _check_counts(file: Mapping[str, Part]) -> None:
    counts = {part.where: part.shape[0] for part in file.values()}
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{where} has {count}" for where, count in counts.items())
        raise CalibrationError(f"each input must have the same number of samples, but {said}")


def _varies(parts: Sequence[Part]) -> bool:
    """Return whether any sample differs from the first; raise if a number is not finite."""
    first = np.array(parts[0].open()[:1])
    varied = False
    for part in parts:
        array = part.open()
        step = max(1, PIECE // prod(part.shape[1:]))
        for start in range(0, len(array), step):
            piece = array[start : start + step]
            finite = np.isfinite(piece)
            if not finite.all():
                at = np.unravel_index(int(np.argmin(finite)), piece.shape)
                index = (start + int(at[0]), *map(int, at[1:]))
                raise CalibrationError(
                    f"{part.where}: the number at {index} is {piece[at]}; leave out samples that "
                    "are not finite"
                )
            varied = varied or not bool((piece == first).all())
    return varied
