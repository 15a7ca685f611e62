"""The forms of regrouping, and which of them some arguments ask for."""

from __future__ import annotations

from typing import Literal

from masktools.errors import MaskError
from masktools.transform.algorithm3 import Thresholds

PRESETS = ("released",)

Form = Literal["budget", "thresholds", "released"]


def form_of(
    thresholds: Thresholds, preset: str | None, density: float | None, group_rows: int | None
) -> Form:
    """Return the form that arguments of `masktools.regroup` ask for.

    Raises
    ------
    TypeError
        If they belong to different forms.
    MaskError
        If there is no such preset.

    Examples
    --------
    >>> form_of(Thresholds(min_rows=17), None, None, None), form_of(Thresholds(), None, 0.2, 8)
    ('thresholds', 'budget')
    """
    given = thresholds.given()
    if preset is not None:
        if preset not in PRESETS:
            raise MaskError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
        others = [*given, *["density"] * (density is not None)]
        others += ["group_rows"] * (group_rows is not None)
        if others:
            raise TypeError(f"preset={preset!r} settles how to regroup: leave out {others[0]}")
        return "released"
    if list(given) == ["passes"]:
        raise TypeError("passes belongs to the form with thresholds; give one of them")
    if given and density is not None:
        raise TypeError("density and thresholds exclude each other: choose one form")
    return "thresholds" if given else "budget"
