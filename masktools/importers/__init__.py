"""Masks and weights out of the files of pruning tools."""
