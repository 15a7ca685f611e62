"""The report of a conversion: a row per layer, and totals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from types import NoneType
from typing import Any, TypeVar, overload

import numpy as np

from masktools.conversion.selection import Source
from masktools.errors import FormatError
from masktools.layout import BlockLayout
from masktools.network.cost import Multiplications


def _share(part: float | None, whole: float | None) -> float | None:
    """Return part / whole; 1 of nothing, None of the unknown."""
    if part is None or whole is None:
        return None
    return part / whole if whole else 1.0


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Weights, saliency and multiplications of one or more layers, before and after.

    Parameters
    ----------
    weights : int
        All of them, kept or not.
    kept, stored : int
        Weights that the mask kept, and those that are stored now.
    fill, residual : int
        Stored weights that the mask had pruned; kept ones that are no longer stored.
    saliency, saliency_stored : float
        Of the kept weights, and of those among them that are stored.
    multiplications, multiplications_kept, multiplications_stored : int or None
        For one sample, taps inside the image only: dense, under the mask, now. None without a
        graph.
    blocks : int
        Dense blocks; none in a layer left dense, or in which none was found.
    seconds : float
        Of work; where layers ran side by side, theirs add up.
    """

    weights: int
    kept: int
    stored: int
    fill: int
    residual: int
    saliency: float
    saliency_stored: float
    multiplications: int | None
    multiplications_kept: int | None
    multiplications_stored: int | None
    blocks: int
    seconds: float

    @property
    def density_before(self) -> float:
        """Share of the weights that the mask kept."""
        return _share(self.kept, self.weights) or 0.0

    @property
    def density_after(self) -> float:
        """Share of the weights that are stored."""
        return _share(self.stored, self.weights) or 0.0

    @property
    def retained(self) -> float:
        """Share of the saliency that is stored."""
        return _share(self.saliency_stored, self.saliency) or 0.0

    @property
    def multiplication_density_before(self) -> float | None:
        """Share of the multiplications that the mask kept."""
        return _share(self.multiplications_kept, self.multiplications)

    @property
    def multiplication_density_after(self) -> float | None:
        """Share of the multiplications that are left."""
        return _share(self.multiplications_stored, self.multiplications)

    @property
    def limit(self) -> float | None:
        """Dense / remaining multiplications; None without a graph, or where none remain."""
        if not self.multiplications_stored:
            return None
        return _share(self.multiplications, self.multiplications_stored)

    def as_dict(self) -> dict[str, Any]:
        """Return every field and every share, for JSON."""
        return asdict(self) | {name: getattr(self, name) for name in _SHARES}


_SHARES = (
    "density_before",
    "density_after",
    "retained",
    "multiplication_density_before",
    "multiplication_density_after",
    "limit",
)


@dataclass(frozen=True, kw_only=True)
class LayerReport(Figures):
    """The figures of one layer.

    Parameters
    ----------
    layer : str
    shape : tuple of int
        The weight's own shape.
    rows, columns : int
    groups, row_groups : int
        Convolution groups; row groups that columns were chosen for, 0 where there are none.
    dense_because : str
        Why the layer was left dense; empty where it was converted.
    without_blocks : str
        What became of a layer in which no block was found: ``"mask"``, ``"dense"`` or
        ``"empty"``; empty where there are blocks, or none were looked for.
    partitioner, refinement : str
        What divided the rows, and what refined the groups; empty where nothing did.
    resumed : bool
        Its row groups were found by an earlier run.
    """

    layer: str
    shape: tuple[int, ...]
    rows: int
    columns: int
    groups: int
    row_groups: int = 0
    dense_because: str = ""
    without_blocks: str = ""
    partitioner: str = ""
    refinement: str = ""
    resumed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return every field and every share, for JSON, the layer's name first."""
        return {"layer": self.layer, **super().as_dict()}


@dataclass(frozen=True)
class Report(Sequence[LayerReport]):
    """A row per layer, in the masks' order, and totals.

    Parameters
    ----------
    layers : tuple of LayerReport
    converted : Figures
        Of the layers that were converted: what a network's density is counted over.
    total : Figures
        Of all layers that have a mask; its multiplications, and with them `limit`, are those of
        the whole graph. The columns that read a dropped row are counted; in `cost` they are not.
    options : dict
        The arguments of the conversion.
    notes : tuple of str
        What else a user should know.
    excluded : dict of str to str
        The layers that `converted`, and so the density of the network, leaves out, with the
        reason: those that stay dense, and those of the graph that have no mask.
    cost : dict of str to Multiplications, or None
        Of the whole graph for one sample: ``"dense"``, under the masks ``"before"``, and
        ``"after"``; see `masktools.network.cost.multiplications`. None without a graph.
    """

    layers: tuple[LayerReport, ...]
    converted: Figures
    total: Figures
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    excluded: Mapping[str, str] = field(default_factory=dict)
    cost: Mapping[str, Multiplications] | None = None

    def __repr__(self) -> str:
        after = self.total
        return (
            f"Report({sum(not row.dense_because for row in self)} of {len(self)} layers converted, "
            f"density {after.density_before:.3f} -> {after.density_after:.3f}, "
            f"retained {after.retained:.3f})"
        )

    def __len__(self) -> int:
        return len(self.layers)

    @overload
    def __getitem__(self, index: int) -> LayerReport: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[LayerReport, ...]: ...
    def __getitem__(self, index: int | slice) -> LayerReport | tuple[LayerReport, ...]:
        return self.layers[index]

    @property
    def budget_shares(self) -> tuple[float | None, ...]:
        """Each layer's part of all that the converted layers store; None where left dense.

        Counted as the budget was: in weights, or in multiplications.
        """
        what = "multiplications_stored" if self.options.get("by") == "multiplications" else "stored"
        whole = getattr(self.converted, what)
        return tuple(
            None if row.dense_because or not whole else getattr(row, what) / whole for row in self
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            "options": dict(self.options),
            "layers": [
                row.as_dict() | {"budget_share": share}
                for row, share in zip(self, self.budget_shares, strict=True)
            ],
            "converted": self.converted.as_dict(),
            "total": self.total.as_dict(),
            "notes": list(self.notes),
            "excluded": dict(self.excluded),
            "cost": self.cost and {case: asdict(part) for case, part in self.cost.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """Return the report that `as_dict` made.

        Raises
        ------
        FormatError
            If a field is missing or of another kind.
        """
        try:
            rows = [
                _read(LayerReport, {**row, "shape": tuple(row["shape"])}) for row in data["layers"]
            ]
            return cls(
                tuple(rows),
                _read(Figures, data["converted"]),
                _read(Figures, data["total"]),
                dict(data["options"]),
                tuple(data["notes"]),
                dict(data["excluded"]),
                None if data["cost"] is None else _read_cost(data["cost"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"the report is not one of masktools: {error!r}") from error


_KINDS: Mapping[str, Any] = {
    "int": int,
    "int | None": (int, NoneType),
    "float": (int, float),
    "str": str,
    "bool": bool,
    "tuple[int, ...]": tuple,
}
_Row = TypeVar("_Row", bound=Figures)


def _read(kind: type[_Row], data: Mapping[str, Any]) -> _Row:
    values = {f.name: data[f.name] for f in fields(kind)}
    for f in fields(kind):
        if not isinstance(values[f.name], _KINDS[str(f.type)]):
            raise TypeError(f"{f.name} is {values[f.name]!r}")
        if isinstance(values[f.name], int) and abs(values[f.name]) >= 2**63:
            raise ValueError(f"{f.name} has more than 64 bits")
    return kind(**values)


def _read_cost(data: Mapping[str, Any]) -> dict[str, Multiplications]:
    found = {case: Multiplications(**data[case]) for case in ("dense", "before", "after")}
    for part in found.values():
        for count in (part.inside, part.padded):
            if type(count) is not int or not 0 <= count < 2**63:
                raise TypeError(f"a count of multiplications is {count!r}")
    return found


def layer_report(source: Source, layout: BlockLayout | None, seconds: float = 0.0) -> LayerReport:
    """Return the figures of one layer.

    Parameters
    ----------
    source : Source
    layout : BlockLayout or None
        None where the layer stays dense.
    seconds : float, default 0.0
    """
    mask = source.matrix
    everything = np.ones_like(mask)
    stored = everything if layout is None else layout.to_mask().reshape(mask.shape)
    size, kept = source.rows * source.columns, int(np.count_nonzero(mask))
    both = int(np.count_nonzero(mask & stored))
    n = int(np.count_nonzero(stored))
    return LayerReport(
        layer=source.name,
        shape=source.shape,
        rows=source.rows,
        columns=source.columns,
        groups=source.groups,
        weights=size,
        kept=kept,
        stored=n,
        fill=n - both,
        residual=kept - both,
        saliency=float(source.saliency.sum(dtype=np.float64)),
        saliency_stored=float((source.saliency * stored).sum(dtype=np.float64)),
        multiplications=source.multiplications(everything),
        multiplications_kept=source.multiplications(mask),
        multiplications_stored=source.multiplications(stored),
        blocks=len(layout.blocks) if layout else 0,
        dense_because=source.dense_because,
        seconds=seconds,
    )


def total(rows: Iterable[Figures], dense_multiplications: int | None = None) -> Figures:
    """Return the figures of several layers together.

    Parameters
    ----------
    rows : iterable of Figures
    dense_multiplications : int, default None
        Of further layers of the graph, which stay as they are.
    """
    parts = list(rows)
    more = dense_multiplications or 0
    sums = {f.name: sum(getattr(row, f.name) or 0 for row in parts) for f in fields(Figures)}
    counted = all(row.multiplications is not None for row in parts)
    for name in sums:
        if name.startswith("multiplications"):
            sums[name] = sums[name] + more if counted else None
    return Figures(**sums)
