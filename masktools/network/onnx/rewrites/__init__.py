"""How each ONNX operator is written in the normal form: a file for each family, and the table."""
