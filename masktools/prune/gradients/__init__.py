"""Masks of a PyTorch module from its gradients: at its start, in training, channel by channel.

The only folder of `masktools.prune` that imports PyTorch; `masktools.prune` loads it when one of
its names is first used.
"""
