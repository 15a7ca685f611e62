"""Small networks in ONNX, and the graphs that are read from them."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import torch
import zoo
from onnx import TensorProto, helper, numpy_helper

from masktools.checkpoint import Checkpoint
from runtime.backend import choose
from runtime.model import Model
from runtime.plan import plan


def model(nodes, constants=None, inputs=(("x", [1, 3, 6, 6]),), outputs=("y",), opset=17, **extra):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **extra)


def node(op, inputs, outputs, name=None, **attributes):
    return helper.make_node(op, inputs, outputs, name=name or f"my_{op}", **attributes)


def ints(*values):
    return np.array(values, np.int64)


def weight(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(graph, x):
    return Model(plan.build(Checkpoint(graph)), choose("reference"))(x)


def torch_onnx(module, x, opset=17, path=None, **options):
    path = path or zoo.io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, x, path, dynamo=False, opset_version=opset, **options)
    return None if isinstance(path, str) else onnx.load_from_string(path.getvalue())
