"""All tools that are read, and the choice among them."""

from __future__ import annotations

from masktools.errors import FormatError
from masktools.importers.contents import Contents
from masktools.importers.tool import Tool
from masktools.importers.tools import buffers, channels_last, compressed, nested, onnx, positional
from masktools.importers.tools.arrays import TOOL as ARRAYS
from masktools.importers.tools.beside import BESIDE, BUFFERS
from masktools.importers.tools.keras import TOOL as KERAS

SPECIFIC: tuple[Tool, ...] = (
    *buffers.TOOLS,
    *nested.TOOLS,
    *compressed.TOOLS,
    *channels_last.TOOLS,
    *onnx.TOOLS,
    *positional.TOOLS,
    KERAS,
    BESIDE,
)
# Tried one after the other where no tool's keys are there: masks go before zeros of the weights.
PLAIN: tuple[Tool, ...] = (BUFFERS, ARRAYS)
TOOLS = {tool.name: tool for tool in (*SPECIFIC, *PLAIN)}


def choose(contents: Contents, name: str | None) -> Tool:
    """Return the one tool whose keys the file has, or the one named.

    Raises
    ------
    FormatError
        If no tool matches, several do, or the named one does not.
    """
    if name is not None:
        return _named(contents, name)
    matching = [tool for tool in SPECIFIC if tool.matches(contents)]
    if len(matching) > 1:
        which = "; ".join(f"{tool.name} ({tool.keys})" for tool in matching)
        raise FormatError(
            f"{contents.path}: ambiguous: it has the keys of {which}; say tool= to choose"
        )
    if matching:
        return matching[0]
    for tool in PLAIN:
        if tool.matches(contents):
            return tool
    raise FormatError(f"{contents.path}: no tool's masks are in it: {_summary(contents)}")


def _named(contents: Contents, name: str) -> Tool:
    if name not in TOOLS:
        raise FormatError(f"tool {name!r} is not read; known are {', '.join(sorted(TOOLS))}")
    tool = TOOLS[name]
    if not tool.matches(contents):
        raise FormatError(
            f"{contents.path}: not written by {name}, whose files have {tool.keys}: "
            f"{_summary(contents)}"
        )
    return tool


def _summary(contents: Contents) -> str:
    """Say in a line what the file holds instead."""
    tree = contents.state or contents.tree
    names = [str(key) for key in tree] if isinstance(tree, dict) else [type(tree).__name__]
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    said = [f"a {contents.container} file with {', '.join(names[:6]) or 'nothing'}{more}"]
    if contents.choices:
        keys = " and ".join(map(repr, contents.choices[:6]))
        said.append(f"state dicts lie under {keys}: save the one that is meant alone")
    elif not contents.state:
        said.append("save a state dict, or {layer: mask}")
    return "; ".join([*said, *contents.notes])
