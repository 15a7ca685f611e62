"""Check arguments once, at the public boundary: TypeError for kind, MaskError for content."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from masktools.errors import MaskError


def check_share(name: str, value: object) -> None:
    """Raise unless an argument is a number between 0 and 1.

    Examples
    --------
    >>> check_share("density", 1.5)
    Traceback (most recent call last):
    masktools.errors.MaskError: density must be between 0 and 1, got 1.5
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not 0 <= value <= 1:
        raise MaskError(f"{name} must be between 0 and 1, got {value}")


def check_count(name: str, value: object, least: int) -> None:
    """Raise unless an argument is a whole number, and at least so much.

    Examples
    --------
    >>> check_count("passes", 1.5, 1)
    Traceback (most recent call last):
    TypeError: passes must be a whole number, got 1.5
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise MaskError(f"{name} must be at least {least}, got {value}")


def check_layers(name: str, value: object) -> None:
    """Raise unless an argument maps layers to something.

    Examples
    --------
    >>> check_layers("masks", 3)
    Traceback (most recent call last):
    TypeError: masks must be a mapping by layer, got int
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping by layer, got {type(value).__name__}")
