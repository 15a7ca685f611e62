"""How right a ticket is in blocks that are calibrated instead of retrained."""
