"""Fit a converted network to its source on a few inputs, without labels and without training."""
