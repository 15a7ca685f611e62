"""The sizes that a user gives to inputs whose sizes are open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from masktools.errors import GraphError
from masktools.network.sizes import Size

# A size; or what leaves it as it is: None, -1, "?" or any name.
Wish: TypeAlias = "int | str | None"
# By input; or of the only input.
InputShapes: TypeAlias = "Mapping[str, Sequence[Wish]] | Sequence[Wish]"


def given_sizes(
    shapes: InputShapes, inputs: Mapping[str, Sequence[int | str | None]]
) -> dict[str, tuple[int | None, ...]]:
    """Return the size of each axis that a user gives, None where none is given.

    Parameters
    ----------
    shapes : mapping of str to sequence of int, str or None; or one such sequence
        By input, or of the only one: sizes, one for each axis. None, -1, ``"?"`` or a name leaves
        an axis as it is.
    inputs : mapping of str to sequence of int, str or None
        The inputs' own shapes; a text, None or a `Size` is open.

    Raises
    ------
    GraphError
        If there is no such input, a shape has another number of axes or a size below 1, or the
        network fixes another size.

    Examples
    --------
    >>> given_sizes((1, 3, 64, "?"), {"x": (None, 3, "height", "width")})
    {'x': (1, 3, 64, None)}
    """
    has = "; it has " + ", ".join(f"{name} {_text(own)}" for name, own in inputs.items())
    if not isinstance(shapes, Mapping):
        if len(inputs) != 1:
            raise GraphError(f"input shape {_said(shapes)}: say which input it is of{has}")
        shapes = {next(iter(inputs)): shapes}
    for name in shapes:
        if name not in inputs:
            raise GraphError(f"input shape of {name!r}: the network has no such input{has}")
    return {name: _given(name, shape, inputs[name]) for name, shape in shapes.items()}


def _given(
    name: str, shape: Sequence[Wish], own: Sequence[int | str | None]
) -> tuple[int | None, ...]:
    where = f"input {name!r}: shape {_said(shape)} for {_text(own)}"
    if len(shape) != len(own):
        raise GraphError(f"{where}: {len(shape)} axes, but the network's input has {len(own)}")
    sizes = [None if isinstance(size, str) or size == -1 else size for size in shape]
    for axis, (size, fixed) in enumerate(zip(sizes, own, strict=True)):
        if size is not None and size < 1:
            raise GraphError(f"{where}: axis {axis} must have a size of at least 1, not {size}")
        open_ = not isinstance(fixed, int) or isinstance(fixed, Size)
        if size is not None and not open_ and size != fixed:
            raise GraphError(f"{where}: the network fixes axis {axis} to {fixed}")
    return tuple(sizes)


def _text(shape: Sequence[int | str | None]) -> str:
    return f"({_said(shape).replace(',', ', ')})"


def _said(shape: Sequence[Wish]) -> str:
    return ",".join("?" if size is None else str(size) for size in shape)
