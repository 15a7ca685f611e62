"""A network as a graph: its operators, shapes, channels and layers."""
