"""Unstructured masks from a network's weights alone: no inputs, no training, no framework."""

from masktools.prune.pruning import magnitude, random

__all__ = ["magnitude", "random"]
