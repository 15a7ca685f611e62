"""Counts of booleans, which are whole numbers in a file and floats in the normal form."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from masktools.network.onnx.node import Source

# What means the same for whole numbers as for floats: and makes whole numbers of them, or others.
_KEEPING = (
    "Clip", "Flatten", "Identity", "Max", "Min", "ReduceMax", "ReduceMin", "ReduceSum", "Reshape",
    "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
_ENDING = ("Cast", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


def makes_counts(source: Source, given: Sequence[str], counts: Collection[str]) -> bool:
    """Return whether a node makes counts; raise where it would compute otherwise with them.

    Parameters
    ----------
    source : Source
    given : sequence of str
        Its inputs, as the file names them.
    counts : collection of str
        The tensors of the file that are counts.

    Raises
    ------
    GraphError
        If it reads a count and means something else for floats, as a division does.
    """
    read = next((name for name in given if name in counts), None)
    if read is None or source.op in _ENDING:
        return False
    if source.op not in _KEEPING:
        raise source.refuse(
            f"input {read!r} is a count of booleans, a whole number: cast it to float before"
        )
    return True
