"""The CUDA backend beside cuDNN."""
