"""The options of a conversion, and which of them make sense together."""

from __future__ import annotations

from dataclasses import dataclass, fields

from masktools.checks import check_count, check_share
from masktools.conversion.across import ACROSS
from masktools.conversion.methods import WITHOUT_BLOCKS
from masktools.errors import MaskError
from masktools.partition.partitioners import candidates as partitioners
from masktools.partition.row_groups import GROUP_ROWS
from masktools.transform.algorithm3 import Thresholds
from masktools.transform.forms import Form, form_of
from masktools.transform.refill import CRITERIA, EXTRA
from masktools.transform.saliency import SALIENCIES

METHODS = ("regroup", "refill", "refill-plus")
BY = ("weights", "multiplications")


@dataclass(frozen=True)
class Options:
    """The options of a conversion: method, budget, target, partitioner; checked together."""

    method: str
    density: float | None = None
    by: str = "weights"
    across: str = "log-share"
    saliency: str = "magnitude"
    extra: float | None = None
    criterion: str = "l1"
    target: str = "cpu"
    group_rows: int | None = None
    row_groups: int | None = None
    min_column_nonzeros: int | None = None
    min_rows: int | None = None
    min_columns: int | None = None
    passes: int | None = None
    preset: str | None = None
    without_blocks: str = "mask"
    partitioner: str = "kahypar"
    seed: int = 0

    @property
    def taken_back(self) -> float:
        """The share of dropped rows that come back: `extra`, or what refill-plus has by default."""
        if self.extra is None:
            return EXTRA if self.method == "refill-plus" else 0.0
        return self.extra

    @property
    def thresholds(self) -> Thresholds:
        """Those of Algorithm 3."""
        return Thresholds(**{f.name: getattr(self, f.name) for f in fields(Thresholds)})

    @property
    def form(self) -> Form:
        """Which form of regrouping is asked for."""
        return form_of(self.thresholds, self.preset, self.density, self.group_rows)

    def check(self, scores: object, graph: object) -> None:
        """Raise unless they make sense together, before any work is done."""
        for name, chosen, known in (
            ("method", self.method, METHODS),
            ("by", self.by, BY),
            ("across", self.across, ACROSS),
            ("saliency", self.saliency, SALIENCIES),
            ("criterion", self.criterion, CRITERIA),
            ("target", self.target, tuple(GROUP_ROWS)),
            ("without_blocks", self.without_blocks, WITHOUT_BLOCKS),
        ):
            if chosen not in known:
                raise MaskError(f"{name} must be one of {', '.join(known)}, got {chosen!r}")
        if self.density is not None:
            check_share("density", self.density)
        elif self.across not in ("log-share", "own"):
            raise TypeError(
                f"across={self.across!r} shares a density among the layers: give a density"
            )
        check_share("extra", self.taken_back)
        check_count("seed", self.seed, 0)
        if self.by == "multiplications" and graph is None:
            raise TypeError("by='multiplications' needs a graph")
        if self.extra and self.method != "refill-plus":
            raise TypeError(f"extra belongs to method 'refill-plus', not to {self.method!r}")
        if self.method == "regroup":
            self._check_regroup(scores)
        else:
            regrouping: tuple[tuple[str, object, object], ...] = (
                *((name, count, None) for name, count in self.thresholds.given().items()),
                ("preset", self.preset, None),
                ("without_blocks", self.without_blocks, WITHOUT_BLOCKS[0]),
                ("group_rows", self.group_rows, None),
                ("partitioner", self.partitioner, "kahypar"),
            )
            for name, value, default in regrouping:
                if value != default:
                    raise TypeError(f"{name} belongs to method 'regroup', not to {self.method!r}")

    def _check_regroup(self, scores: object) -> None:
        if self.criterion != "l1" or scores is not None:
            raise TypeError("criterion and scores belong to refill: regroup picks no rows")
        if self.group_rows is not None:
            check_count("group_rows", self.group_rows, 1)
        partitioners(self.partitioner)
        if self.form == "budget":
            if self.without_blocks != WITHOUT_BLOCKS[0]:
                raise TypeError(
                    "without_blocks belongs to thresholds and presets: within a budget, across "
                    "says which layers may end empty"
                )
            return
        for name, value, default in (
            ("by", self.by, "weights"),
            ("across", self.across, ACROSS[0]),
        ):
            if value != default:
                raise TypeError(
                    f"{name}={value!r} is about a density; thresholds and presets have none"
                )

    def of_regroup(self) -> dict[str, str | int]:
        """Return the arguments of `regroup` that are the same for every layer."""
        shared: dict[str, str | int] = {"partitioner": self.partitioner, "seed": int(self.seed)}
        if self.preset is not None:
            return {**shared, "preset": self.preset}
        given = {name: int(value) for name, value in self.thresholds.given().items()}
        return {**shared, **given, "group_rows": self._height()}

    def of_row_groups(self) -> dict[str, str | int]:
        """Return the arguments of `row_groups` that are the same for every layer."""
        return {
            "group_rows": self._height(),
            "partitioner": self.partitioner,
            "seed": int(self.seed),
        }

    def _height(self) -> int:
        return int(self.group_rows or GROUP_ROWS[self.target])
