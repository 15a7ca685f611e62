"""Describe a pruning tool: how its files are recognised, and what its reader returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from masktools.importers.contents import Array, Contents, join

# Trained weights hit zero now and then, in half precision above all; no tool prunes so little.
_CHANCE_ZEROS = 1e-3

Names = Mapping[str, str] | Sequence[str | None] | None


@dataclass(frozen=True)
class Found:
    """Masks and weights by layer, turned to (out, in / groups, kh, kw), True = keep.

    Parameters
    ----------
    masks : dict of ndarray
        bool or numbers that are 0 or 1. Empty where `dense` says why.
    weights, rewound : dict of ndarray
        As the file holds them: not multiplied by the mask. Empty where it holds none.
    notes : list of str
        What was assumed; a sentence each.
    dense : str
        Why there are no masks, and what would settle it.
    applied : bool
        False where a mask exists elsewhere, so that the weights alone mislead.
    named : bool
        The wanted names were used in reading, by position.
    """

    masks: dict[str, Array] = field(default_factory=dict)
    weights: dict[str, Array] = field(default_factory=dict)
    rewound: dict[str, Array] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    dense: str = ""
    applied: bool = True
    named: bool = False


@dataclass(frozen=True)
class Tool:
    """A family of files: how it is recognised, and how it is read.

    `keys` says in words what `matches` looks for; it ends up in messages. `positional` tools number
    their masks, so that `names` may be a sequence. `whole` ones read beyond the state dict, and say
    themselves what they leave out.
    """

    name: str
    keys: str
    matches: Callable[[Contents], bool]
    read: Callable[[Contents, Names], Found]
    positional: bool = False
    whole: bool = False


def weights_of(named: Mapping[str, Array], layers: Mapping[str, object]) -> dict[str, Array]:
    """Return ``<layer>.weight`` of those `layers` that have one."""
    return {
        layer: named[join(layer, "weight")] for layer in layers if join(layer, "weight") in named
    }


def by_zeros(weights: Mapping[str, Array], notes: list[str]) -> Found:
    """Read the zeros of the weights as the mask; weights without zeros to speak of are dense."""
    masks = {layer: weight != 0 for layer, weight in weights.items()}
    size = sum(mask.size for mask in masks.values())
    zeros = size - sum(int(np.count_nonzero(mask)) for mask in masks.values())
    if zeros < size * _CHANCE_ZEROS:
        some = f"{zeros} zeros among {size} weights, no more than chance and rounding make"
        return Found(
            weights=dict(weights),
            notes=notes,
            dense=f"dense: no mask and {some if zeros else 'no zeros in the weights'}; give the "
            "file that holds the mask, or weights that the mask was multiplied into",
        )
    return Found(masks, dict(weights), notes=[*notes, "zeros in the weights were read as the mask"])


def bias_notes(number: int) -> list[str]:
    """Return the note about the masks of biases that a file holds, if any."""
    return [f"{number} bias masks were left out: biases stay dense"] if number else []


def zero_or_one(array: Array) -> bool:
    """Tell whether an array can be a mask by its values."""
    return array.dtype == np.bool_ or bool(((array == 0) | (array == 1)).all())
