"""Networks and layouts to checkpoints."""
