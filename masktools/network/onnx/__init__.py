"""ONNX files into the graph's normal form."""
