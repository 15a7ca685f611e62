"""Match what a file calls its layers with what a network calls them.

The same layer is ``stem.conv`` in a state dict, ``model.stem.conv`` in a checkpoint of its trainer,
and ``/stem/conv/Conv`` or ``node_conv2d`` in an ONNX file whose exporter lost the parameter's name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.errors import MaskError

Shape = tuple[int, ...]

_SHOWN = 8  # names of a list in a message
# Zeros at fewer places than this may be chance.
_PRUNED = 4
_NODE = re.compile(r"/(?:.*/)?[A-Z]\w*")


@dataclass(frozen=True)
class Known:
    """A layer of the network, with everything that it may be called.

    Parameters
    ----------
    shape : tuple of int
    also : tuple of str
        Further names: of the module that made its node, of the parameter that is its bias.
    lost : bool
        Whether the file has lost the parameter's name, so that the layer is called by its node.
    """

    shape: Shape
    also: tuple[str, ...] = ()
    lost: bool = False


@dataclass(frozen=True)
class Match:
    """Which given names belong to which layer.

    Parameters
    ----------
    layers : dict of str to list of str
        By layer of the network the names that are its own, more than one where layers share a
        weight. A name may belong to several layers.
    unused : tuple of str
        Names that belong to none.
    notes : tuple of str
        How names that differ were matched.
    guesses : tuple of str
        The same where only shapes and order speak for it.
    """

    layers: dict[str, list[str]]
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    guesses: tuple[str, ...] = ()


def module_path(node: str) -> str | None:
    """Return the module's name that PyTorch's TorchScript exporter puts into a node's name.

    Parameters
    ----------
    node : str
        The node's operator behind the modules around it; members of a Sequential or ModuleList
        bear the list's name too.

    Returns
    -------
    str or None
        None where the name is not of this form, or names no module.

    Examples
    --------
    >>> module_path("/stem/conv/Conv"), module_path("/layer1/layer1.0/conv1/Conv_1")
    ('stem.conv', 'layer1.0.conv1')
    >>> module_path("Conv_20") is None
    True
    """
    if not _NODE.fullmatch(node):
        return None
    path: list[str] = []
    for scope in node.split("/")[1:-1]:
        if path and scope.startswith(f"{path[-1]}."):
            path.pop()
        path.append(scope)
    return ".".join(path) or None


def meet(
    masks: Mapping[str, NDArray[np.bool_]], weights: Mapping[str, NDArray[Any]], where: str
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Return the weights of masks that come from another file, under the masks' names.

    Parameters
    ----------
    masks, weights : mapping of str to ndarray
        Weights of further layers are passed over.
    where : str
        The weights' file, for messages.

    Returns
    -------
    dict of str to ndarray
        In the order of the masks.
    tuple of str
        How names that differ were matched.

    Raises
    ------
    MaskError
        If a mask's weights are not there.
    """
    shapes = {name: mask.shape for name, mask in masks.items()}
    known = {}
    for name, weight in weights.items():
        path = module_path(name)
        known[name] = Known(weight.shape, (path,) if path else (), path is not None)

    def fits(name: str, layer: str) -> bool:
        return is_masked(masks[name], weights[layer])

    found = match(shapes, known, fits)
    if found.unused:
        raise unmatched("mask", shapes, known, found, where)
    layer_of = {name: layer for layer, names in found.layers.items() for name in names}
    notes = tuple(f"masks were matched {line}" for line in (*found.notes, *found.guesses))
    return {name: weights[layer_of[name]] for name in masks}, notes


def is_masked(keep: NDArray[np.bool_], weight: NDArray[Any]) -> bool:
    """Tell whether weights are those under a mask, beyond chance: zero wherever it prunes.

    Parameters
    ----------
    keep, weight : ndarray
        Of one shape.
    """
    if np.count_nonzero(~keep) < _PRUNED or weight[~keep].any():
        return False
    return bool(np.count_nonzero(weight[keep]) * 2 > np.count_nonzero(keep))


def match(
    given: Mapping[str, Shape],
    known: Mapping[str, Known],
    fits: Callable[[str, str], bool] | None = None,
) -> Match:
    """Match names with layers: by name, by a common prefix, by the weights, by shape and order.

    Parameters
    ----------
    given : mapping of str to tuple of int
        Names and shapes, in the file's order.
    known : mapping of str to Known
        The network's layers, in execution order.
    fits : callable, default None
        ``fits(name, layer)``: whether the weights of a layer of the same shape are those of a
        name, beyond chance. None where nothing is known of them.

    Returns
    -------
    Match
        What cannot be matched is unused. Shape and order alone decide only about layers whose
        names the network has lost.
    """
    search = _Search(given, known)
    search.by_name()
    if search.unused():
        search.by_prefix()
    if search.unused() and fits is not None:
        search.by_weights(fits)
    if search.unused():
        search.by_shape()
    return Match(search.found, tuple(search.unused()), tuple(search.notes), tuple(search.guesses))


@dataclass
class _Search:
    given: Mapping[str, Shape]
    known: Mapping[str, Known]
    found: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    guesses: list[str] = field(default_factory=list)

    def unused(self) -> list[str]:
        used = {name for names in self.found.values() for name in names}
        return [name for name in self.given if name not in used]

    def free(self) -> list[str]:
        return [layer for layer in self.known if layer not in self.found]

    def by_name(self) -> None:
        self.found, renamed = _named(self.known, {_plain(name): name for name in self.given})
        if renamed:
            self.notes.append(f"by the module that the node names: {_pairs(renamed)}")

    def by_prefix(self) -> None:
        """Strip one prefix from all names of one side, where all then fits."""
        first, names = _plain(next(iter(self.given))), list(self.given)
        called = {name for layer in self.known for name in _called(layer, self.known[layer])}
        longer = {first.removesuffix(name) for name in called if first.endswith(f".{name}")}
        shorter = {name.removesuffix(first) for name in called if name.endswith(f".{first}")}
        for prefix in sorted(longer, key=len):
            stripped = {_plain(n).removeprefix(prefix): n for n in names}
            if all(_plain(n).startswith(prefix) for n in names) and self._take(stripped):
                self.notes.append(f"once the prefix {prefix!r} was stripped from the file's names")
                return
        for prefix in sorted(shorter, key=len):
            if self._take({f"{prefix}{_plain(n)}": n for n in names}):
                self.notes.append(
                    f"once the prefix {prefix!r} was stripped from the network's names"
                )
                return

    def _take(self, names: Mapping[str, str]) -> bool:
        """Take a reading of all names if every one then belongs to a layer of its shape."""
        found, _ = _named(self.known, names)
        used = {name for group in found.values() for name in group}
        fitting = all(
            self.given[name] == self.known[layer].shape
            for layer, group in found.items()
            for name in group
        )
        if len(used) == len(self.given) and fitting:
            self.found = found
            return True
        return False

    def by_weights(self, fits: Callable[[str, str], bool]) -> None:
        """Match a name with a layer where each fits no other."""
        candidates = {
            name: [
                layer
                for layer in self.free()
                if self.known[layer].shape == self.given[name] and fits(name, layer)
            ]
            for name in self.unused()
        }
        claims = [layer for layers in candidates.values() for layer in layers]
        sure = {
            layers[0]: [name]
            for name, layers in candidates.items()
            if len(layers) == 1 and claims.count(layers[0]) == 1
        }
        if sure:
            self.found |= sure
            self.notes.append(f"by the zeros of the weights: {_pairs(sure)}")

    def by_shape(self) -> None:
        """Match the remaining names where shapes, or shapes in their order, decide."""
        names, layers = self.unused(), [layer for layer in self.free() if self.known[layer].lost]
        shapes = [self.known[layer].shape for layer in layers]
        wanted = [self.given[name] for name in names]
        if len(set(wanted)) == len(wanted) and all(shapes.count(s) == 1 for s in wanted):
            sure = {layers[shapes.index(self.given[name])]: [name] for name in names}
            self.guesses.append(f"by shape alone: {_pairs(sure)}")
        elif wanted == shapes:
            sure = {layer: [name] for layer, name in zip(layers, names, strict=True)}
            self.guesses.append(f"by shape and order alone: {_pairs(sure)}")
        else:
            return
        self.found |= sure


def _named(
    known: Mapping[str, Known], names: Mapping[str, str]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return by layer the given names, whose plain forms are the keys; and those of other names."""
    found: dict[str, list[str]] = {}
    renamed: dict[str, list[str]] = {}
    taken = set(map(_plain, known))
    for layer, about in known.items():
        called = [n for n in _called(layer, about) if n == _plain(layer) or n not in taken]
        own = [names[name] for name in called if name in names]
        if own:
            found[layer] = own
            if _plain(layer) not in names:
                renamed[layer] = own
    return found, renamed


def _called(layer: str, about: Known) -> list[str]:
    """Return the plain forms of a layer's names, each once."""
    return list(dict.fromkeys(map(_plain, (layer, *about.also))))


def _plain(name: str) -> str:
    """Return a name with dots for slashes, as Keras and JAX write them."""
    return name.strip("/").replace("/", ".")


def _pairs(found: Mapping[str, Sequence[str]]) -> str:
    return _list(f"{' and '.join(names)} as {layer}" for layer, names in found.items())


def _list(parts: Iterable[str]) -> str:
    parts = list(parts)
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return ", ".join(parts[:_SHOWN]) + more


def unmatched(
    what: str,
    given: Mapping[str, Shape],
    known: Mapping[str, Known],
    found: Match,
    where: str = "the network",
) -> MaskError:
    """Return the error for names that belong to no layer: both sides, and the nearest of each.

    Parameters
    ----------
    what : str
        What the names name: "mask", "layout".
    given, known
        As `match`.
    found : Match
    where : str, default "the network"
        What `known` are the layers of.
    """
    free = [layer for layer in known if layer not in found.layers]
    near = []
    for name in found.unused:
        close = difflib.get_close_matches(_plain(name), free, 2, 0.5)
        close += [layer for layer in free if known[layer].shape == given[name]][:2]
        if close:
            nearest = ", ".join(f"{layer!r} {known[layer].shape}" for layer in dict.fromkeys(close))
            near.append(f"nearest to {name!r} {given[name]}: {nearest}")
    names = _list(map(repr, found.unused))
    who = f"{what} {names} matches" if len(found.unused) == 1 else f"{what}s {names} match"
    left = _list(f"{layer} {known[layer].shape}" for layer in free) or "none"
    said = [
        f"{who} no layer of {where}, which has {left}" + (" without one" if found.layers else ""),
        *near[:_SHOWN],
        "names= (--names) maps names",
    ]
    return MaskError("; ".join(said))
