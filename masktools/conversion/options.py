"""The options of a conversion, and which of them make sense together."""

from __future__ import annotations

from dataclasses import dataclass

from masktools.checks import check_count, check_share
from masktools.conversion.across import ACROSS
from masktools.errors import MaskError
from masktools.partition.partitioners import candidates as partitioners
from masktools.partition.row_groups import GROUP_ROWS
from masktools.transform.refill import CRITERIA
from masktools.transform.saliency import SALIENCIES

METHODS = ("regroup", "refill", "refill-plus")
BY = ("weights", "multiplications")


@dataclass(frozen=True)
class Options:
    """The options of a conversion: method, budget, target, partitioner; checked together."""

    method: str
    density: float | None
    by: str
    across: str
    saliency: str
    extra: float
    criterion: str
    target: str
    group_rows: int | None
    partitioner: str
    seed: int

    def check(self, scores: object, graph: object) -> None:
        """Raise unless they make sense together, before any work is done."""
        for name, value, known in (
            ("method", self.method, METHODS),
            ("by", self.by, BY),
            ("across", self.across, ACROSS),
            ("saliency", self.saliency, SALIENCIES),
            ("criterion", self.criterion, CRITERIA),
            ("target", self.target, tuple(GROUP_ROWS)),
        ):
            if value not in known:
                raise MaskError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if self.density is not None:
            check_share("density", self.density)
        elif self.across not in ("log-share", "own"):
            raise TypeError(
                f"across={self.across!r} shares a density among the layers: give a density"
            )
        check_share("extra", self.extra)
        check_count("seed", self.seed, 0)
        if self.by == "multiplications" and graph is None:
            raise TypeError("by='multiplications' needs a graph")
        if self.extra and self.method != "refill-plus":
            raise TypeError(f"extra belongs to method 'refill-plus', not to {self.method!r}")
        if self.method == "regroup":
            self._check_regroup(scores)
        else:
            for name, asked in (
                ("group_rows", self.group_rows is not None),
                ("partitioner", self.partitioner != "kahypar"),
            ):
                if asked:
                    raise TypeError(f"{name} belongs to method 'regroup', not to {self.method!r}")

    def _check_regroup(self, scores: object) -> None:
        if self.criterion != "l1" or scores is not None:
            raise TypeError("criterion and scores belong to refill: regroup picks no rows")
        if self.group_rows is not None:
            check_count("group_rows", self.group_rows, 1)
        partitioners(self.partitioner)

    def of_row_groups(self) -> dict[str, str | int]:
        """Return the arguments of `row_groups` that are the same for every layer."""
        return {
            "group_rows": int(self.group_rows or GROUP_ROWS[self.target]),
            "partitioner": self.partitioner,
            "seed": int(self.seed),
        }
