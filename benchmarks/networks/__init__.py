"""Whether the networks that people have pass through masktools, and are equal to PyTorch."""
