"""Whether trained networks that ship as packages run and are equal to onnxruntime, at three sizes.

    build/trained/bin/python -m benchmarks.trained

PP-OCRv4's detector, recogniser and classifier of directions (of `rapidocr-onnxruntime`) and a YOLOX
detector (of `ddddocr`), each as it is; with the smallest four of five weights of every converted
layer zero, as rows of nonzeros; and as blocks of 8 rows of the same mask, the rest kept. Each is
exported once, runs on the reference and on the CPU backend, and is compared with onnxruntime
running the same weights, relative to the largest number of the output. Inputs are smooth noise.

Writes results/trained.json. Needs both packages; see benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.ndimage import gaussian_filter

import masktools
import runtime
from benchmarks.record import environment, show, write

Array = NDArray[Any]
DENSITY = 0.2
GROUP_ROWS = 8
BACKENDS = ("reference", "cpu")
PACKAGES = ("rapidocr-onnxruntime", "ddddocr", "onnxruntime", "onnx", "masktools", "numpy")


class Trained(NamedTuple):
    """A network that ships with a package, which sizes it leaves open, and those it is run at."""

    package: str
    file: str
    sizes: tuple[int | str, ...]
    shapes: tuple[tuple[int, ...], ...]


NETWORKS = {
    "PP-OCRv4 detection": Trained(
        "rapidocr_onnxruntime",
        "models/ch_PP-OCRv4_det_infer.onnx",
        ("n", 3, "h", "w"),
        ((1, 3, 160, 160), (1, 3, 320, 224), (2, 3, 480, 640)),
    ),
    "PP-OCRv4 recognition": Trained(
        "rapidocr_onnxruntime",
        "models/ch_PP-OCRv4_rec_infer.onnx",
        ("n", 3, 48, "w"),
        ((1, 3, 48, 120), (1, 3, 48, 320), (4, 3, 48, 200)),
    ),
    "PP-OCR classification": Trained(
        "rapidocr_onnxruntime",
        "models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        ("n", 3, "h", "w"),
        ((1, 3, 48, 192), (1, 3, 64, 100), (6, 3, 48, 160)),
    ),
    "YOLOX detection": Trained(
        "ddddocr",
        "common_det.onnx",
        (1, 3, "h", "w"),
        ((1, 3, 416, 416), (1, 3, 256, 320), (1, 3, 640, 640)),
    ),
}


def source(network: Trained) -> onnx.ModelProto:
    """Return the network of a package, without running the package, with its sizes left open.

    Where it ends with Sigmoid or Softmax it ends before: near zero and one, rounding is all that
    these leave to compare.
    """
    found = importlib.util.find_spec(network.package)
    if found is None or found.origin is None:
        raise SystemExit(f"{network.package} is not installed; see benchmarks/README.md")
    model = onnx.load(Path(found.origin).parent / network.file)
    graph = model.graph
    fed = {tensor.name for tensor in graph.initializer}
    (given,) = (value for value in graph.input if value.name not in fed)
    (output,) = graph.output
    made = {name: node for node in graph.node for name in node.output}
    last = made[output.name]
    scores = last.input[0] if last.op_type in ("Sigmoid", "Softmax") else output.name
    sizes = onnx.helper.make_tensor_value_info(given.name, onnx.TensorProto.FLOAT, network.sizes)
    given.CopyFrom(sizes)
    output.CopyFrom(onnx.helper.make_tensor_value_info(scores, onnx.TensorProto.FLOAT, None))
    graph.ClearField("value_info")  # It tells sizes of values that are open now.
    return model


def pruned(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Set four of five weights of each layer to zero, the smallest; return it and the masks.

    The first convolution stays as it is, and so do layers of few inputs, as depthwise ones.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    masks = {}
    first = True
    for node, tensor in weights(result):
        weight = numpy_helper.to_array(tensor)
        if first or weight[0].size < 8:
            first = False
            continue
        keep = max(1, round(weight.size * DENSITY))
        mask = abs(weight) >= np.partition(abs(weight).ravel(), -keep)[-keep]
        tensor.CopyFrom(numpy_helper.from_array(weight * mask, tensor.name))
        masks[node.name or tensor.name] = mask
    return result, masks


def weights(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, onnx.TensorProto]]:
    """Yield each convolution with its weight, once, in the order of the graph."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in tensors:
            yield node, tensors.pop(node.input[1])


def smooth_noise(shape: Sequence[int], seed: int) -> NDArray[np.float32]:
    """Return images between about -1 and 1 whose neighbouring pixels are alike."""
    values = np.random.default_rng(seed).standard_normal(shape)
    values = gaussian_filter(values, (0, 0, 3, 3))
    return np.asarray(values / abs(values).max(), np.float32)


def compare(file: Path, model: onnx.ModelProto, network: Trained) -> dict[str, Any]:
    """Return the largest error of a checkpoint, by backend and size."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    ready = {backend: runtime.load(file, backend=backend) for backend in BACKENDS}
    errors: dict[str, Any] = {backend: {} for backend in BACKENDS}
    for seed, shape in enumerate(network.shapes):
        x = smooth_noise(shape, seed)
        (wanted,) = session.run(None, {name: x})
        for backend, loaded in ready.items():
            found = np.asarray(loaded(x))
            if found.shape != wanted.shape:
                raise SystemExit(f"{network.file}: {found.shape}, not {wanted.shape}")
            size = "x".join(map(str, shape))
            errors[backend][size] = float(abs(found - wanted).max() / abs(wanted).max())
    return errors


def measure(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each structure of a network."""
    network = NETWORKS[name]
    model = source(network)
    sparse, masks = pruned(model)
    file = folder / "net.safetensors"
    for structure in ("dense", "unstructured", f"groups of {GROUP_ROWS} rows"):
        run = model if structure == "dense" else sparse
        options: dict[str, Any] = {}
        if structure == "unstructured":
            options = {"masks": masks, "residual": "keep"}
        elif structure != "dense":
            result = masktools.convert(
                masks, method="regroup", group_rows=GROUP_ROWS, progress=False
            )
            options = {"layouts": result.layouts, "residual": "keep"}
        start = time.perf_counter()
        masktools.export.from_onnx(run, file, **options)
        row = {"network": name, "structure": structure, "layers": len(masks)}
        row["export_seconds"] = round(time.perf_counter() - start, 1)
        yield row | {"errors": compare(file, run, network)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    options = parser.parse_args()
    where = environment(PACKAGES)
    rows = []
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            for row in measure(name, Path(folder)):
                rows.append(row)
                print(row, flush=True)
    columns = ["network", "structure", "layers", *(f"onnxruntime, {b}" for b in BACKENDS)]
    lines = [
        [
            r["network"],
            r["structure"],
            r["layers"],
            *(max(r["errors"][b].values()) for b in BACKENDS),
        ]
        for r in rows
    ]
    show("trained networks", columns, lines)
    if options.networks == list(NETWORKS):
        print(write("trained", where, {"records": rows}))


if __name__ == "__main__":
    main()
