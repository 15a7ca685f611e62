"""Write the trained ticket as an ONNX network, and the network retrained after regrouping.

    python examples/digits/export_network.py

Writes `digitsnet.onnx`, the ticket as any framework would export it (convolution weights in half
precision: exactly the ticket's), and `digitsnet_regrouped.safetensors`, the checkpoint of the
network retrained from the rewound weights under the regrouped mask: the paper's IMP-Regroup.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from safetensors.torch import load_file
from torch import nn

import masktools
from masktools import checkpoint as checkpoints
from networks import NETWORKS
from training import accuracy, digits, train

HERE = Path(__file__).parent
TICKET = HERE / "digitsnet_round07.safetensors"
REWOUND = HERE / "digitsnet_rewound.safetensors"
EPOCHS, REWIND, SEED = 40, 2, 100


def network_from(path: Path, model: str = "digitsnet") -> nn.Module:
    """Return a network with the tensors of a file, pruned weights as zeros."""
    network = NETWORKS[model]()
    plain, weights = load_file(path), masktools.load_weights(path)
    state = network.state_dict()
    for name, tensor in state.items():
        layer = name.removesuffix(".weight")
        if name in plain:
            tensor.copy_(plain[name])
        elif name.endswith(".weight"):
            tensor.copy_(torch.from_numpy(weights[layer]))
    return network.eval()


def halve_weights(model: onnx.ModelProto) -> None:
    """Store every convolution weight in half precision behind a Cast, in place."""
    graph = model.graph
    convolutions = {node.input[1]: node for node in graph.node if node.op_type == "Conv"}
    casts = []
    for tensor in graph.initializer:
        if tensor.name in convolutions:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            full = f"{tensor.name}.float"
            casts.append(helper.make_node("Cast", [tensor.name], [full], to=onnx.TensorProto.FLOAT))
            convolutions[tensor.name].input[1] = full
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def write_onnx(network: nn.Module, path: Path, image_size: int = 8) -> None:
    """Export with an open batch and the parameters' names."""
    program = torch.onnx.export(
        network,
        (torch.zeros(2, 1, image_size, image_size),),
        dynamo=True,
        optimize=False,
        verbose=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    model = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]
    halve_weights(model)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def halve_values(source: Path, target: Path) -> None:
    """Copy a checkpoint, its blocks' values in half precision."""
    full = checkpoints.read(source)
    sparse = {
        layer: replace(weight, values=weight.values.astype(np.float16))
        for layer, weight in full.sparse.items()
    }
    checkpoints.write(target, replace(full, sparse=sparse))


def main() -> None:
    torch.use_deterministic_algorithms(True)
    train_set, test_set = digits(NETWORKS["digitsnet"].image_size)
    ticket = network_from(TICKET)
    print(f"ticket: {accuracy(ticket, test_set):.2%} right")
    write_onnx(ticket, HERE / "digitsnet.onnx")

    result = masktools.convert(
        masktools.load_masks(TICKET), masktools.load_weights(TICKET), method="regroup", target="cpu"
    )
    masks = {f"{name}.weight": torch.from_numpy(m) for name, m in result.masks.items()}
    retrained = network_from(REWOUND)
    train(retrained, train_set, masks, EPOCHS, SEED, first_epoch=REWIND)
    print(f"retrained under the regrouped mask: {accuracy(retrained, test_set):.2%} right")
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / "retrained.onnx"
        write_onnx(retrained.eval(), network)
        checkpoint = Path(folder) / "retrained.safetensors"
        masktools.export.from_onnx(network, checkpoint, layouts=result.layouts)
        halve_values(checkpoint, HERE / "digitsnet_regrouped.safetensors")


if __name__ == "__main__":
    main()
