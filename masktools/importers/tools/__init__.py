"""Pruning tools: how each one stores its masks and weights."""
