"""One file for each way to compute a layer."""
