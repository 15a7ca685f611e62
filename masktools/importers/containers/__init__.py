"""File containers: which one a file is, and its arrays and objects; nothing is executed."""
