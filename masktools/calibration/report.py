"""The report of a calibration: a row per layer, and how far the network is from its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import NoneType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.errors import FormatError
from masktools.layout import BlockLayout


@dataclass(frozen=True)
class LayerCalibration:
    """The figures of one calibrated layer.

    Parameters
    ----------
    layer : str
    columns : int
        The most that a row stores.
    replaced : int
        Columns of blocks that took the place of others.
    positions : int
        Windows of the samples that the values were fitted on.
    ridge : float or None
        The weight of the distance to the old values that was best on the samples held back; None
        where no fit was better than the old values, or none was made.
    condition : float or None
        Of the worst system that was solved; None where none was.
    error_before, error_after : float
        Of the layer's output on the samples held back: the mean square of its difference to the
        source network's, over the variance of that one. None where that one does not vary.
    """

    layer: str
    columns: int
    replaced: int
    positions: int
    ridge: float | None
    condition: float | None
    error_before: float | None
    error_after: float | None


@dataclass(frozen=True)
class CalibrationReport:
    """The figures of a calibration; errors and shares are of the samples held back.

    Parameters
    ----------
    method : {"refit", "values", "statistics"}
    samples, held_back : int
        How many values were fitted on, and how many were not used for that.
    error_before, error_after : float or None
        Of the network's outputs: the mean square of their difference to the source network's, over
        the variance of those.
    agreement_before, agreement_after : float or None
        How often the network names the class that the source names; None where it names none.
    accuracy_source, accuracy_before, accuracy_after : float or None
        How often each network names the class of the label; None without labels.
    layers : tuple of LayerCalibration
        In the order of execution.
    notes : tuple of str
        What else a user should know.
    """

    method: str
    samples: int
    held_back: int
    error_before: float | None
    error_after: float | None
    agreement_before: float | None
    agreement_after: float | None
    accuracy_source: float | None
    accuracy_before: float | None
    accuracy_after: float | None
    layers: tuple[LayerCalibration, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return asdict(self) | {
            "layers": [asdict(row) for row in self.layers],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CalibrationReport:
        """Return the report that `as_dict` made.

        Raises
        ------
        FormatError
            If a field is missing or of another kind.
        """
        try:
            rows = tuple(LayerCalibration(**_read(LayerCalibration, r)) for r in data["layers"])
            notes = tuple(map(str, data["notes"]))
            head = {k: v for k, v in data.items() if k not in ("layers", "notes")}
            return cls(**_read(cls, head | {"layers": rows, "notes": notes}))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"the calibration is not one of masktools: {error!r}") from error


_KINDS: Mapping[str, Any] = {
    "str": str,
    "int": int,
    "float | None": (int, float, NoneType),
    "tuple[LayerCalibration, ...]": tuple,
    "tuple[str, ...]": tuple,
}


def _read(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    values = {f.name: data[f.name] for f in fields(kind)}
    for f in fields(kind):
        if not isinstance(values[f.name], _KINDS[str(f.type)]):
            raise TypeError(f"{f.name} is {values[f.name]!r}")
    return values


@dataclass(frozen=True, eq=False)
class Calibration:
    """The values of a network that calibration changed, and the report about it.

    Parameters
    ----------
    values : dict of str to ndarray of float32
        By the constant's name in the network: ``<layer>.weight`` with zeros where nothing is
        stored, ``<layer>.bias``, also of a layer that had none, and the mean and variance of
        batch normalisations.
    report : CalibrationReport
    layouts : dict of str to BlockLayout
        Of the layers whose blocks store other columns than before.
    """

    values: Mapping[str, NDArray[np.float32]] = field(repr=False)
    report: CalibrationReport
    layouts: Mapping[str, BlockLayout] = field(default_factory=dict, repr=False)
