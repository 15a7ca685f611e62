"""The layers of a PyTorch module: those that are pruned, and those that keep every weight."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from masktools.checks import BoolArray
from masktools.errors import MaskError
from masktools.named_layers import NamedLayers
from masktools.network.graph import Graph
from masktools.prune.counts import largest, number_kept
from masktools.prune.layers import masks_of, staying_dense

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
EMPTY = ("refuse", "report")

Masks = dict[str, BoolArray]
Scores = NDArray[np.float64]
GraphOrPath = Graph | str | os.PathLike[str] | None

logger = logging.getLogger("masktools.prune")


@dataclass(frozen=True, eq=False)
class Prunable:
    """The layers of a module that have masks, and the weights of those that are pruned.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Of every layer's weight, in the order of the module.
    weights : mapping of str to Parameter
        Of the layers that are pruned.
    earlier : mapping of str to ndarray of bool
        Of these layers, the masks of an earlier round: pruned weights stay pruned.
    empty : {"refuse", "report"}
        Whether a layer may be left without a weight.
    """

    shapes: Mapping[str, tuple[int, ...]]
    weights: Mapping[str, nn.Parameter]
    earlier: Mapping[str, BoolArray]
    empty: str

    @classmethod
    def of(
        cls,
        module: nn.Module,
        graph: GraphOrPath,
        skip: Iterable[str],
        include: Iterable[str],
        *,
        masks: Mapping[str, ArrayLike] | None = None,
        empty: str = "refuse",
    ) -> Prunable:
        """Return the layers of a module, by the rules of `masktools.prune.magnitude`.

        Raises
        ------
        TypeError, MaskError
            If `empty` is neither of the two, there is no layer to prune, a name is not there, a
            weight is not finite or is made of other parameters, or a mask does not fit: naming
            the layer.
        """
        if empty not in EMPTY:
            raise MaskError(f"empty must be one of {', '.join(EMPTY)}, got {empty!r}")
        found = layers_of(module)
        shapes = {name: tuple(part.weight.shape) for name, part in found.items()}
        blank = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
        reasons = staying_dense(blank, graph, NamedLayers.of(skip, include))
        weights = {name: _weight(name, part) for name, part in found.items() if not reasons[name]}
        wanted = {name: shapes[name] for name in weights}
        if masks is None:
            earlier = {name: np.ones(shape, np.bool_) for name, shape in wanted.items()}
        else:
            earlier = masks_of("masks", masks, wanted)
        return cls(shapes, weights, earlier, empty)

    @property
    def total(self) -> int:
        """The weights of all layers that are pruned."""
        return sum(weight.numel() for weight in self.weights.values())

    @property
    def remaining(self) -> int:
        """Those of them that the earlier masks keep."""
        return sum(int(np.count_nonzero(mask)) for mask in self.earlier.values())

    def count(self, density: float) -> int:
        """Return how many weights a density keeps of all layers that are pruned.

        Raises
        ------
        TypeError, MaskError
            If it is no density, keeps nothing, or keeps more than the earlier masks do.
        """
        count = number_kept(density, self.total)
        if count > self.remaining:
            raise MaskError(
                f"{count} of {self.total} weights are to stay, but the masks given keep only "
                f"{self.remaining}: ask for a smaller density"
            )
        return count

    def masked(self, masks: Mapping[str, BoolArray] | None = None) -> dict[str, Tensor]:
        """Return copies of the weights under masks, the earlier ones by default; leaves."""
        chosen = self.earlier if masks is None else masks
        return {
            name: (weight.detach() * on_device(chosen[name], weight)).requires_grad_()
            for name, weight in self.weights.items()
        }

    def hold(self) -> None:
        """Set the weights that earlier masks prune to zero, in the module itself."""
        if self.remaining < self.total:
            with torch.no_grad():
                for name, weight in self.weights.items():
                    weight.mul_(on_device(self.earlier[name], weight))

    def best(self, scores: Mapping[str, Scores], count: int) -> Masks:
        """Keep the weights of the highest scores over all pruned layers.

        Parameters
        ----------
        scores : mapping of str to ndarray of float64
            Of every pruned layer, in its weight's shape. What earlier masks prune is not read.
        count : int
            How many are kept, at most those that earlier masks keep.

        Returns
        -------
        dict of ndarray of bool
            Of the pruned layers. Of equals those stay that come first.

        Raises
        ------
        MaskError
            If a score is not finite.
        """
        for name, mask in self.earlier.items():
            check_finite(name, scores[name], mask)
        chosen = largest(
            np.concatenate([scores[name][mask] for name, mask in self.earlier.items()]), count
        )
        kept, first = {}, 0
        for name, mask in self.earlier.items():
            kept[name] = mask.copy()
            size = int(np.count_nonzero(mask))
            kept[name][mask] = chosen[first : first + size]
            first += size
        return kept

    def finished(self, kept: Mapping[str, BoolArray]) -> Masks:
        """Return a mask of every layer, all True where a layer is not pruned.

        Parameters
        ----------
        kept : mapping of str to ndarray of bool
            Of the pruned layers.

        Raises
        ------
        MaskError
            Naming the layers that are left without one.
        """
        emptied = [
            f"layer {name!r} (of {mask.size} weights)"
            for name, mask in kept.items()
            if mask.size and not mask.any()
        ]
        if emptied:
            said = f"nothing is left of {', '.join(emptied)}"
            if self.empty == "refuse":
                raise MaskError(f"{said}: keep more, name it in skip, or give empty='report'")
            logger.warning("%s", said)
        return {
            name: kept[name] if name in kept else np.ones(shape, np.bool_)
            for name, shape in self.shapes.items()
        }


def layers_of(module: nn.Module) -> dict[str, Any]:
    """Return the convolutions and matrices of a module by name; of shared weights the first.

    Raises
    ------
    TypeError, MaskError
        If it is no module, or has none.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(module).__name__}")
    found: dict[str, Any] = {}
    seen = set()
    for name, part in module.named_modules():
        if not isinstance(part, LAYERS):
            continue
        if is_lazy(part.weight):
            raise MaskError(f"layer {name!r} has no weights yet: run the module on an input first")
        if id(part.weight) not in seen:
            seen.add(id(part.weight))
            found[name or "weight"] = part
    if not found:
        raise MaskError("the module has no convolution and no matrix: there is nothing to prune")
    return found


def parameter(layer: str) -> str:
    """Return the name of the parameter that is a layer's weight."""
    return layer if layer == "weight" else f"{layer}.weight"


def _weight(name: str, part: nn.Module) -> nn.Parameter:
    weight = part._parameters.get("weight")
    if weight is None:
        raise MaskError(
            f"layer {name!r}: its weight is computed of other parameters (torch.nn.utils.prune, "
            "or a parametrization): make it permanent first, or name the layer in skip"
        )
    check_finite(name, weight.detach().double().cpu().numpy(), None, "weights")
    return weight


def check_finite(name: str, values: Scores, mask: BoolArray | None, what: str = "scores") -> None:
    """Raise `MaskError` where a value, of those that a mask keeps, is NaN or infinite."""
    wrong = ~np.isfinite(values)
    if mask is not None:
        wrong &= mask
    if wrong.any():
        at = np.unravel_index(int(np.argmax(wrong)), values.shape)
        raise MaskError(
            f"layer {name!r}: {what} must be finite, got {values[at]} at {tuple(map(int, at))}"
        )


def on_device(mask: BoolArray, weight: Tensor) -> Tensor:
    """Return a mask as a tensor that a weight can be multiplied by."""
    return torch.from_numpy(np.ascontiguousarray(mask)).to(weight.device)
