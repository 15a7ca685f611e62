"""Unstructured masks: of a network's weights alone, or of a PyTorch module and its gradients.

The names that need PyTorch are loaded when first used, so that the others need none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from masktools.prune.pruning import magnitude, random

if TYPE_CHECKING:
    from masktools.prune.gradients.channel_criteria import channel_scores as channel_scores
    from masktools.prune.gradients.flow_of_gradients import grasp as grasp
    from masktools.prune.gradients.projected import admm as admm
    from masktools.prune.gradients.sensitivity import snip as snip
    from masktools.prune.gradients.soft_masks import (
        continuous_sparsification as continuous_sparsification,
    )
    from masktools.prune.gradients.synaptic_flow import synflow as synflow
    from masktools.prune.gradients.whole_channels import channels as channels

_WITH_TORCH = {
    "admm": "projected",
    "channel_scores": "channel_criteria",
    "channels": "whole_channels",
    "continuous_sparsification": "soft_masks",
    "grasp": "flow_of_gradients",
    "snip": "sensitivity",
    "synflow": "synaptic_flow",
}

__all__ = ["magnitude", "random", *sorted(_WITH_TORCH)]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - PEP 562
    if name not in _WITH_TORCH:
        raise AttributeError(f"module 'masktools.prune' has no attribute {name!r}")
    try:
        import_module("torch")
    except ImportError as error:
        raise ImportError(f"prune.{name} needs: pip install 'masktools[torch]'") from error
    value = getattr(import_module(f"masktools.prune.gradients.{_WITH_TORCH[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
