"""Other engines beside ours: the same network on the same input, in turns."""
