"""The row of an operator: the form of its nodes, and its rules for shapes and channels.

Every rule is a field without a default, so that an operator that lacks one cannot be written down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

from masktools.network.graph import Node, Shape, ints
from masktools.network.operators.rules import ChannelRule, ConstantRule, CutRule, ShapeRule
from masktools.network.sizes import Size


@dataclass(frozen=True)
class Kind:
    """The type and the allowed values of an attribute.

    Parameters
    ----------
    type : type
        int, float or str, of the value or of each entry.
    many : bool, default False
        A tuple of them.
    least : int, default None
        The smallest value; None where any will do.
    among : tuple of str or int, default ()
        The values that are allowed; empty where `least` says it.
    optional : bool, default False
        May be left out.
    """

    type: type
    many: bool = False
    least: int | None = None
    among: tuple[str | int, ...] = ()
    optional: bool = False

    def accepts(self, value: object) -> bool:
        """Return whether `value` is of this kind."""
        if self.many != isinstance(value, tuple):
            return False
        return all(self._accepts_one(v) for v in (value if isinstance(value, tuple) else (value,)))

    def _accepts_one(self, value: object) -> bool:
        number = self.many and self.type is int and isinstance(value, Size)
        if type(value) is not self.type and not number:
            return False
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            return False
        if self.among and value not in self.among:
            return False
        return self.least is None or (isinstance(value, int) and value >= self.least)

    def __str__(self) -> str:
        if self.among:
            return "one of " + ", ".join(map(str, self.among))
        words = f"{self.type.__name__}s" if self.many else f"a finite {self.type.__name__}"
        return words if self.least is None else f"{words} of at least {self.least}"


@dataclass(frozen=True)
class Operator:
    """One operator of the normal form.

    Parameters
    ----------
    inputs : (int, int)
        Fewest and most inputs; the second is 0 where there is no limit.
    shape : callable
        Returns the shapes of the outputs, given the node and those of its inputs; raises
        ValueError where they do not fit.
    channels : callable
        Returns, for each output, where its channels come from (`rules.Flow`); None where the
        operator mixes channels, or they lie on another axis afterwards.
    constant : callable
        Returns, for each output, the value of each channel that is the same at every pixel
        whatever the input (`rules.Known`); None where nothing is known.
    cut : callable
        Returns the node that does the same to fewer channels (`rules.Cutting`).
    attributes : mapping of str to Kind
        Every attribute, each of them written unless optional.
    constants : tuple of int, default ()
        Inputs that must be constants; all others must be values that a node or the caller makes.
    either : bool, default False
        Of the inputs that are not in `constants`, all but one may be constants too.
    outputs : int, default 1
        How many; 0 where `check` says it.
    check : callable, default None
        Checks what takes several attributes or the constants' shapes: called with the node and
        the shapes of its inputs (None unless constant), returns what is wrong or None.
    version : int, default 1
        The first version of the checkpoint that knows the operator.
    since : callable, default None
        Returns the first version that knows a node, where that depends on its attributes, which
        may be of any kind.
    """

    inputs: tuple[int, int]
    _: KW_ONLY
    shape: ShapeRule
    channels: ChannelRule
    constant: ConstantRule
    cut: CutRule
    attributes: Mapping[str, Kind] = field(default_factory=dict)
    constants: tuple[int, ...] = ()
    either: bool = False
    outputs: int = 1
    check: Callable[[Node, list[Shape | None]], str | None] | None = None
    version: int = 1
    since: Callable[[Node], int] | None = None


# --- what several families need -----------------------------------------------------------------

ONE = (1, 1)
INTS = Kind(int, many=True)
FLOAT = Kind(float)
FLAG = Kind(int, among=(0, 1))
AXIS = Kind(int, least=0)
AXES = Kind(int, many=True, least=0)
SIZES = Kind(int, many=True, least=1)


def check_axes(node: Node, shapes: list[Shape | None]) -> str | None:
    """Check that the attribute `axes` names at least one axis and each once; say why not."""
    axes = ints(node, "axes")
    if not axes or len(set(axes)) < len(axes):
        return f"attribute axes={axes!r} must name axes, each once"
    return None


def valid_axes(axes: Sequence[int], shape: Shape) -> set[int]:
    """Return axes as a set.

    Raises
    ------
    ValueError
        If a tensor of this shape lacks one of them.
    """
    if any(axis >= len(shape) for axis in axes):
        raise ValueError(f"axes {tuple(axes)} for {len(shape)} axes")
    return set(axes)
