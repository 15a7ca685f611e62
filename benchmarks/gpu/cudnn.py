"""The other side: cuDNN through PyTorch, at its best.

Whatever could make it faster is tried and the fastest counts: both memory formats, the algorithms
that cuDNN finds by timing (`benchmark`), bias, skip add and ReLU fused into the convolution or left
apart, everything recorded as a CUDA graph. What fails is named, not hidden.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor, fx, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorch warns of what it imports itself.
    from torch.fx.experimental.optimization import fuse

FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
TYPES = {"float32": torch.float32, "tf32": torch.float32, "float16": torch.float16}
Pair = tuple[int, int] | int  # stride, padding, dilation; groups


@contextmanager
def computing_in(dtype: str) -> Iterator[None]:
    """Let cuDNN and cuBLAS use TF32 or keep them from it, and let cuDNN time its algorithms."""
    backends = torch.backends
    kept = (backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, backends.cudnn.benchmark)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The switches have newer names since PyTorch 2.9.
        backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = dtype == "tf32"
        backends.cudnn.benchmark = True
        try:
            with torch.inference_mode():
                yield
        finally:
            backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = kept[:2]
            backends.cudnn.benchmark = kept[2]


def convolution_relu(x: Tensor, weight: Tensor, bias: Tensor, *window: Pair) -> Tensor:
    """relu(conv(x) + bias), as one operation of cuDNN's."""
    if x.is_cuda:
        return torch.cudnn_convolution_relu(x, weight, bias, *window)
    return torch.relu(nn.functional.conv2d(x, weight, bias, *window))


def convolution_add_relu(
    x: Tensor, weight: Tensor, skip: Tensor, bias: Tensor, *window: Pair
) -> Tensor:
    """relu(conv(x) + bias + skip), as one operation of cuDNN's."""
    if x.is_cuda:
        return torch.cudnn_convolution_add_relu(x, weight, skip, 1.0, bias, *window)
    return torch.relu(nn.functional.conv2d(x, weight, bias, *window) + skip)


def with_epilogues(module: fx.GraphModule) -> fx.GraphModule:
    """Fuse skip add and ReLU into the convolution before them, where nothing else reads between.

    Parameters
    ----------
    module : GraphModule
        With batch normalisation folded. Changed and returned.
    """
    parts = dict(module.named_modules())
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(parts[node.target], nn.Identity):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    for node in list(graph.nodes):
        if node.op == "call_module" and isinstance(parts[node.target], nn.Conv2d):
            _fuse_epilogue(graph, node, parts)
    graph.lint()
    module.recompile()
    return module


def _fuse_epilogue(graph: fx.Graph, node: fx.Node, parts: dict[str, nn.Module]) -> None:
    added, skip, last = None, None, _only_user(node)
    if last is not None and last.target in (operator.add, torch.add):
        added, last = last, _only_user(last)
        skip = next((value for value in added.args if value is not node), None)
        # A skip that is made later is not there yet: its own convolution takes the addition.
        if not isinstance(skip, fx.Node) or not _before(graph, skip, node):
            return
    if last is None or not _is_relu(last, parts):
        return
    part = parts[node.target]
    window = (part.stride, part.padding, part.dilation, part.groups)
    with graph.inserting_before(last):
        weight, bias = (graph.get_attr(f"{node.target}.{name}") for name in ("weight", "bias"))
        if skip is None:
            arguments, function = (node.args[0], weight, bias, *window), convolution_relu
        else:
            arguments = (node.args[0], weight, skip, bias, *window)
            function = convolution_add_relu
        last.replace_all_uses_with(graph.call_function(function, arguments))
    for gone in (last, added, node):
        if gone is not None:
            graph.erase_node(gone)


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _before(graph: fx.Graph, first: fx.Node, second: fx.Node) -> bool:
    order = list(graph.nodes)
    return order.index(first) < order.index(second)


def _is_relu(node: fx.Node, parts: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(parts[node.target], nn.ReLU)
    return node.op == "call_function" and node.target in (torch.relu, nn.functional.relu)


def network_variants(module: nn.Module) -> dict[str, nn.Module]:
    """Return a network with batch normalisation folded: epilogues apart, and fused."""
    return {
        "apart": fuse(module.eval()),
        "fused": with_epilogues(fx.symbolic_trace(fuse(module.eval()))),
    }


def network_seconds(module: nn.Module, x: Tensor, dtype: str) -> dict[str, Any]:
    """Return the seconds of each way to run a network, by name; an error's words where it fails."""
    found: dict[str, Any] = {}
    with computing_in(dtype):
        for how, variant in network_variants(module).items():
            for name, memory_format in FORMATS.items():
                ready = variant.to("cuda", TYPES[dtype], memory_format=memory_format)
                given = x.to("cuda", TYPES[dtype], memory_format=memory_format)
                found[f"{name} {how}"] = _tried(lambda m=ready, g=given: m(g))
    return found


def layer_seconds(
    shape: tuple[int, int, int, int], size: int, batch: int, dtype: str, relu: bool = True
) -> dict[str, Any]:
    """Return the seconds of each way to run a padded convolution; an error's words if it fails.

    Parameters
    ----------
    shape : (out, in, kh, kw)
    size, batch : int
    dtype : str
    relu : bool, default True
        With bias and ReLU, fused or apart; else the convolution alone.
    """
    found: dict[str, Any] = {}
    window = ((1, 1), (shape[2] // 2, shape[3] // 2), (1, 1), 1)
    with computing_in(dtype):
        for name, memory_format in FORMATS.items():
            x, weight = (
                torch.randn(sizes, device="cuda", dtype=TYPES[dtype]).to(
                    memory_format=memory_format
                )
                for sizes in ((batch, shape[1], size, size), shape)
            )
            bias = torch.randn(shape[0], device="cuda", dtype=TYPES[dtype])
            ways: dict[str, Callable[[], Tensor]] = {
                "alone": lambda x=x, w=weight: nn.functional.conv2d(x, w, None, *window)
            }
            if relu:
                ways = {
                    "fused": lambda x=x, w=weight, b=bias: convolution_relu(x, w, b, *window),
                    "apart": lambda x=x, w=weight, b=bias: nn.functional.conv2d(
                        x, w, b, *window
                    ).relu_(),
                }
            for how, run in ways.items():
                found[f"{name} {how}"] = _tried(run, copies=10)
    return found


def _tried(run: Callable[[], Tensor], copies: int = 1) -> float | str:
    try:
        return graph_seconds(run, copies)
    except RuntimeError as error:
        return str(error).splitlines()[0]


def graph_seconds(run: Callable[[], Tensor], copies: int = 1, rounds: int = 15) -> float:
    """Return how long work takes on the device, recorded `copies` times as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # cuDNN times its algorithms now, not while recording.
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(copies):
            run()
    for _ in range(3):
        graph.replay()
    taken = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / 1e3 / copies)
    return median(taken)


def best(ways: dict[str, Any]) -> tuple[str, float]:
    """Return the fastest way, and its seconds.

    Raises
    ------
    RuntimeError
        If none ran.
    """
    times = {name: taken for name, taken in ways.items() if isinstance(taken, float)}
    if not times:
        raise RuntimeError(f"cuDNN ran nothing: {ways}")
    name = min(times, key=lambda way: times[way])
    return name, times[name]
