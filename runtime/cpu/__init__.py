"""The CPU backend: drives the compiled kernels of ``cpu/``."""
