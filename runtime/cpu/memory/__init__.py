"""Where values lie in the arena: layouts, halos, slices of the batch, buffers."""
