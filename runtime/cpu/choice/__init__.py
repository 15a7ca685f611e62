"""Which kernel computes each layer, and what it takes in."""
