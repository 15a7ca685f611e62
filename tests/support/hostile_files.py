"""Files that lie about what they hold."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

WEIGHT = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]], np.float32)
RAW = WEIGHT.tobytes()


def onnx_tensor(dims, raw=RAW):
    tensor = TensorProto(name="fc.weight", data_type=TensorProto.FLOAT, raw_data=raw)
    tensor.dims.extend(dims)
    return tensor


def onnx_file(path, *, dense=(), sparse=()):
    nodes = [
        helper.make_node("Gemm", ["x", t.name], [f"y{i}"], name=f"n{i}", transB=1)
        for i, t in enumerate([*dense, *(s.values for s in sparse)])
    ]
    graph = helper.make_graph(nodes, "net", [], [], list(dense), sparse_initializer=list(sparse))
    path.write_bytes(helper.make_model(graph).SerializeToString())
