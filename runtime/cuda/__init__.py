"""The CUDA backend: drives the kernels of ``cuda/``."""
