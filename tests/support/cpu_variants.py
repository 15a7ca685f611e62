"""The variants of the CPU kernels, and why one cannot be tested here."""

from __future__ import annotations

import os

import pytest

from runtime.cpu import native
from runtime.errors import BackendUnavailable


def usable(variant):
    """Return why a variant cannot be tested here, or an empty text."""
    before = os.environ.get(native.VARIABLE)
    os.environ[native.VARIABLE] = variant
    try:
        native.load()
    except BackendUnavailable as error:
        return str(error)
    finally:
        os.environ.pop(native.VARIABLE)
        if before is not None:
            os.environ[native.VARIABLE] = before
    return ""


REASONS = {variant: usable(variant) for variant in native.VARIANTS}


VARIANTS = [
    pytest.param(variant, marks=pytest.mark.skipif(bool(reason), reason=reason))
    for variant, reason in REASONS.items()
]
