"""A whole network's masks, converted in parallel under one budget."""
