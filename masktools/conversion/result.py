"""The result of a conversion, and the folder that keeps it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.calibration.report import Calibration, CalibrationReport
from masktools.checkpoint.weights import check_values
from masktools.checks import BoolArray
from masktools.conversion.report import Report
from masktools.conversion.resume import FOLDER, count, discard
from masktools.errors import FormatError, MaskError
from masktools.files import check_source, target_of, whole_file
from masktools.forks import unlocked_property
from masktools.importers.containers.detect import MASKS, VALUES
from masktools.layout import BlockLayout
from masktools.tensor_file import TensorFile
from masktools.version import __version__

LAYOUTS, REPORT = "layouts.safetensors", "report.json"
_FORMAT, _VERSION = "masktools-result", 1
_LAYOUTS_FORMAT, _VALUES_FORMAT = "masktools-layouts", "masktools-values"
_FILES = (MASKS, LAYOUTS, VALUES, REPORT)


@dataclass(frozen=True, eq=False)
class Conversion:
    """The layouts of a network's layers, and the report about them.

    Parameters
    ----------
    layouts : dict of str to BlockLayout
        Of the layers that were converted; a layer left dense has none.
    report : Report
        A row per layer that has a mask, in the masks' order.
    calibration : Calibration, default None
        The values that `masktools.calibrate` fitted, and its report.
    """

    layouts: Mapping[str, BlockLayout]
    report: Report
    calibration: Calibration | None = None

    def __repr__(self) -> str:
        return f"Conversion({self.report!r})"

    @unlocked_property
    def masks(self) -> dict[str, BoolArray]:
        """The masks to retrain under, by layer, in the weight's shape; dense layers keep all."""
        return {
            row.layer: self.layouts[row.layer].to_mask()
            if row.layer in self.layouts
            else np.ones(row.shape, np.bool_)
            for row in self.report
        }

    @property
    def values(self) -> Mapping[str, NDArray[np.float32]]:
        """The calibrated constants of the network by name; none without a calibration."""
        return self.calibration.values if self.calibration else {}

    def calibrated(self, calibration: Calibration) -> Conversion:
        """Return the result with what `masktools.calibrate` found for its layouts.

        Blocks that store other columns now take the place of the old ones; the report about the
        conversion stays the one about those.
        """
        return replace(
            self, layouts={**self.layouts, **calibration.layouts}, calibration=calibration
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write masks.safetensors, layouts.safetensors, report.json, and calibrated values.

        Parameters
        ----------
        folder : path
            Made where it is not there. An earlier result is replaced, once all files of this one
            are written; what an interrupted conversion kept there is removed. Masks,
            layouts and values have the same bytes for the same result; the report also holds times.

        Raises
        ------
        FormatError
            If it is a file, or holds something else than a result.

        Notes
        -----
        layouts.safetensors has, per layer ``L``, the arrays of `BlockLayout.to_arrays` as
        ``L.shape``, ``L.row_indices`` and so on; convolution groups stand in the JSON under the
        metadata key ``masktools``. values.safetensors has the calibrated constants of the network
        by name; it is there only where there is a calibration. The report has the hashes of the
        other files.
        """
        from masktools.importers import save_masks

        place = Path(folder)
        check_place(place)
        place.mkdir(parents=True, exist_ok=True)
        contents = {LAYOUTS: _render_layouts(self.layouts)}
        if self.calibration:
            contents[VALUES] = _render_values(self.calibration.values)
        with whole_file(place / REPORT) as report, ExitStack() as files:
            beside = {n: files.enter_context(whole_file(place / n)) for n in (MASKS, *contents)}
            save_masks(beside[MASKS], self.masks)
            for name, content in contents.items():
                beside[name].write_bytes(content)
            hashes = {name: _hash(path) for name, path in beside.items()}
            report.write_text(_render_report(self, hashes), encoding="utf-8")
        if not self.calibration:
            (place / VALUES).unlink(missing_ok=True)
        discard(place / FOLDER)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Conversion:
        """Return the result that `save` wrote.

        Raises
        ------
        FormatError
            If the folder is not a result, or its files do not belong together.
        """
        place = Path(folder)
        if _is_unfinished(place):
            raise FormatError(
                f"{place}: an unfinished conversion, layers done: {count(place / FOLDER)}; "
                "convert again with resume"
            )
        data = _read_report(place)
        hashes = data.get("files")
        calibrated = data.get("calibration") is not None
        for name in (MASKS, LAYOUTS, *[VALUES] * calibrated):
            try:
                check_source(place / name)
                found = _hash(place / name)
            except OSError as error:
                raise FormatError(f"{place / name}: {error.strerror}") from error
            if not isinstance(hashes, dict) or hashes.get(name) != found:
                raise FormatError(f"{place / name} is not the file that {REPORT} was written with")
        try:
            report = Report.from_dict(data)
            fitted = CalibrationReport.from_dict(data["calibration"]) if calibrated else None
        except FormatError as error:
            raise FormatError(f"{place / REPORT}: {error}") from error
        layouts = load_layouts(place)
        rows = {row.layer: row for row in report}
        for name, layout in layouts.items():
            if name not in rows or rows[name].shape != layout.shape:
                raise FormatError(f"{place}: {REPORT} and {LAYOUTS} differ about layer {name!r}")
        ordered = {name: layouts[name] for name in rows if name in layouts}
        calibration = None
        if fitted is not None:
            moved = {row.layer for row in fitted.layers if row.replaced}
            others = {name: one for name, one in ordered.items() if name in moved}
            calibration = Calibration(_load_values(place / VALUES), fitted, others)
        return cls(ordered, report, calibration)


def load_layouts(path: str | os.PathLike[str]) -> dict[str, BlockLayout]:
    """Return the layouts of a result folder, or of its layouts.safetensors.

    Parameters
    ----------
    path : path
        Read with every check of `BlockLayout.from_arrays`, before anything of the size that a
        layout claims is allocated.

    Returns
    -------
    dict of str to BlockLayout
        By name.

    Raises
    ------
    FormatError
        Naming the file, and the layer that is wrong.
    """
    from safetensors import SafetensorError

    place = Path(path)
    file = place / LAYOUTS if place.is_dir() else place
    if not file.is_file():
        raise FormatError(f"{file}: there is no such file, or it is no regular one")
    try:
        with TensorFile(file) as tensors:
            header = json.loads(tensors.metadata.get("masktools", "null"))
            arrays = {name: tensors.read(name) for name in tensors.dtypes}
    except (SafetensorError, ValueError, RecursionError) as error:
        raise FormatError(f"{file}: {error}") from error
    header = _of_format(file, header, _LAYOUTS_FORMAT, "it holds no layouts of masktools")
    groups = header.get("groups")
    if not isinstance(groups, dict) or not all(type(n) is int for n in groups.values()):
        raise FormatError(f"{file}: its header names no convolution groups")
    layers: dict[str, dict[str, Any]] = {name: {} for name in groups}
    for name, array in arrays.items():
        layer, _, kind = name.rpartition(".")
        if layer not in layers:
            raise FormatError(f"{file}: array {name!r} belongs to no layer of the header")
        layers[layer][kind] = array
    try:
        layouts = {}
        for layer, found in layers.items():
            layouts[layer] = BlockLayout.from_arrays(found, groups[layer])
    except MaskError as error:
        raise FormatError(f"{file}: layer {layer!r}: {error}") from error
    return layouts


def is_result(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a folder that `Conversion.save` wrote, or began to."""
    place = Path(path)
    try:
        _read_report(place)
    except FormatError:
        return _is_unfinished(place)
    return True


def result_files(path: Path) -> list[Path]:
    """Return what reading a path may read: itself and, of a result folder, its files."""
    return [path, *(path / name for name in _FILES)]


def check_place(folder: Path) -> None:
    """Raise `FormatError` unless a result may be written to a folder: lose nothing of others."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir():
        raise FormatError(f"{folder}: expected a folder, and it is a file")
    # Of a process that was killed while it wrote a result.
    begun = all(target_of(path.name) in _FILES for path in folder.iterdir())
    if not begun and not is_result(folder):
        raise FormatError(f"{folder}: it is not empty, and not a result of masktools")


def _is_unfinished(place: Path) -> bool:
    return (place / FOLDER).is_dir() and not (place / REPORT).exists()


def _render_layouts(layouts: Mapping[str, BlockLayout]) -> bytes:
    from safetensors.numpy import save

    header = {
        "format": _LAYOUTS_FORMAT,
        "version": _VERSION,
        "groups": {layer: layout.groups for layer, layout in layouts.items()},
    }
    arrays = {
        f"{layer}.{name}": array
        for layer, layout in layouts.items()
        for name, array in layout.to_arrays().items()
    }
    # One key: safetensors writes several in random order.
    return save(arrays, {"masktools": json.dumps(header, sort_keys=True)})


def _render_values(values: Mapping[str, NDArray[np.float32]]) -> bytes:
    from safetensors.numpy import save

    header = {"format": _VALUES_FORMAT, "version": _VERSION}
    arrays = {name: np.asarray(array, order="C") for name, array in values.items()}
    return save(arrays, {"masktools": json.dumps(header, sort_keys=True)})


def _load_values(file: Path) -> dict[str, NDArray[np.float32]]:
    """Return the calibrated constants that a result folder keeps."""
    from safetensors import SafetensorError

    try:
        with TensorFile(file) as tensors:
            header = json.loads(tensors.metadata.get("masktools", "null"))
            arrays = {name: tensors.read(name) for name in tensors.dtypes}
        _of_format(file, header, _VALUES_FORMAT, "it holds no calibrated values of masktools")
        for name, array in arrays.items():
            check_values(f"value {name!r}", array)
    except (SafetensorError, MaskError, RecursionError) as error:
        raise FormatError(f"{file}: {error}") from error
    except ValueError as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{file}: {error}") from error
    return arrays


def _render_report(result: Conversion, hashes: Mapping[str, str]) -> str:
    data = {
        "format": _FORMAT,
        "version": _VERSION,
        "producer": f"masktools {__version__}",
        "files": dict(hashes),
        **result.report.as_dict(),
    }
    if result.calibration:
        data["calibration"] = result.calibration.report.as_dict()
    return json.dumps(data, indent=1) + "\n"


def _read_report(folder: Path) -> dict[str, Any]:
    path = folder / REPORT
    try:
        check_source(path)
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path}: {error}") from error
    return _of_format(path, data, _FORMAT, "it is not a report of masktools")


def _of_format(path: Path, header: object, expected: str, otherwise: str) -> dict[str, Any]:
    """Return the header of a file, or raise unless it is of a format and version that is read."""
    if not isinstance(header, dict) or header.get("format") != expected:
        raise FormatError(f"{path}: {otherwise}")
    if header.get("version") != _VERSION:
        raise FormatError(f"{path}: version {header.get('version')!r}, but {_VERSION} is read")
    return header


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
