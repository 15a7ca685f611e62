"""The types that a pickle may name, each replaced by a stand-in that can do nothing.

NumPy's own rebuilding functions take raw bytes, flags and sizes from the file; these check them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from masktools.importers.contents import Array, Unreadable, count

_PLAIN = re.compile(r"[<>=|]?(b1|i[1248]|u[1248]|f[248])")


class Inert:
    """Stands for an object of no interest (an optimizer's class, parsed arguments)."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class PickledDtype:
    """Stands for ``numpy.dtype``: the letters of a dtype and its byte order."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = code if isinstance(code, str) else ""
        self.order = "<"

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401 - whatever the file says
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]

    def plain(self) -> np.dtype[Any] | None:
        """Return the dtype if it is a plain number's, else None."""
        if not _PLAIN.fullmatch(self.code):
            return None
        return np.dtype(self.order + self.code.lstrip("<>=|"))


class PickledArray:
    """Stands for ``numpy.ndarray``: filled once by the state that the pickle carries."""

    def __init__(self, *_: object) -> None:
        self.value: Array | Unreadable = Unreadable("an array without data")

    def __setstate__(self, state: Any) -> None:  # noqa: ANN401 - whatever the file says
        try:
            _, shape, dtype, fortran, data = state
            plain = dtype.plain()
            if plain is None or not isinstance(data, bytes):
                self.value = Unreadable(f"an array of dtype {dtype.code or 'object'}")
                return
            sizes = tuple(int(n) for n in shape)
            if min(sizes, default=0) < 0 or count(sizes) * plain.itemsize != len(data):
                raise ValueError(f"shape {sizes} does not fit {len(data)} bytes")
            flat = np.frombuffer(data, plain)
            # No copy, also of another byte order: many arrays may be made of the same bytes.
            self.value = flat.reshape(sizes[::-1]).T if fortran else flat.reshape(sizes)
        except (TypeError, AttributeError) as error:
            raise ValueError("an array's pickled state is malformed") from error


def rebuild_array(*_: object) -> PickledArray:
    """Stand in for ``numpy``'s ``_reconstruct``; no size of the file's is believed."""
    return PickledArray()


def rebuild_scalar(dtype: object, data: object = b"") -> object:
    """Stand in for ``numpy``'s ``scalar``."""
    plain = dtype.plain() if isinstance(dtype, PickledDtype) else None
    if plain is None or not isinstance(data, bytes) or len(data) != plain.itemsize:
        return Unreadable("a scalar that is no plain number")
    return np.frombuffer(data, plain)[0].item()


def rebuild_dict(*_: object) -> dict[object, object]:
    """Stand in for ``defaultdict`` and ``dict``: filled by what follows in the file alone."""
    return {}


def encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """Stand in for ``_codecs.encode``, by which protocol 2 writes bytes."""
    if encoding != "latin1":
        raise ValueError(f"encoding {encoding!r} in a pickle")
    return text.encode("latin1")


ALLOWED: dict[str, Callable[..., Any]] = {
    "numpy.dtype": PickledDtype,
    "numpy.ndarray": PickledArray,
    "numpy.core.multiarray._reconstruct": rebuild_array,
    "numpy._core.multiarray._reconstruct": rebuild_array,
    "numpy.core.multiarray.scalar": rebuild_scalar,
    "numpy._core.multiarray.scalar": rebuild_scalar,
    "argparse.Namespace": Inert,
    "builtins.dict": rebuild_dict,
    "collections.defaultdict": rebuild_dict,
}
