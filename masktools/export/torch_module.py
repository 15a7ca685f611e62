"""A PyTorch module on its way into a checkpoint: as ONNX, its shared layers under one name."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from masktools.errors import GraphError, MaskError
from masktools.export.open_sizes import check_same, check_wishes
from masktools.network.layers import layer_name, names_layer

if TYPE_CHECKING:
    import torch
    from onnx import ModelProto
    from torch.onnx import ONNXProgram

_OTHER_EXPORTER = (
    "PyTorch's older exporter may: torch.onnx.export(module, inputs, FILE, dynamo=False), then "
    "from_onnx"
)

# Errors of PyTorch come as exceptions too.
_LOUDEST = {
    "torch.onnx": logging.ERROR,
    "torch.export": logging.CRITICAL,
    "torch._subclasses.fake_tensor": logging.CRITICAL,
}


def module_to_onnx(
    module: torch.nn.Module,
    example_input: Any,  # noqa: ANN401 - a tensor, or a tuple of them
    dynamic_shapes: Any = None,  # noqa: ANN401 - as torch.onnx.export takes them
) -> ModelProto:
    """Return a module in evaluation mode as ONNX, through `torch.export`.

    Parameters
    ----------
    module : torch.nn.Module
        Its training flags are as before afterwards.
    example_input : torch.Tensor or tuple of torch.Tensor
    dynamic_shapes : dict, tuple or list, default None
        As `torch.onnx.export` takes it: the sizes to leave open.

    Raises
    ------
    ImportError
        Without onnxscript.
    GraphError
        If PyTorch cannot capture the module, or not write it, or fixes a size that is to stay open;
        or if what the module computes depends on open sizes.
    """
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    program = _captured(module, inputs, dynamic_shapes)
    if dynamic_shapes is not None:
        check_wishes(program.model_proto.graph, module, inputs, dynamic_shapes)
        check_same(program, inputs, lambda other: _captured(module, other, dynamic_shapes))
    return program.model_proto


def _captured(
    module: torch.nn.Module,
    inputs: tuple[Any, ...],
    dynamic_shapes: Any,  # noqa: ANN401
) -> ONNXProgram:
    import torch

    with _evaluating(module), torch.no_grad(), _quiet():
        step = "torch.export cannot capture the module"
        try:
            if dynamic_shapes is None:
                program = torch.export.export(module, inputs)
                step = "PyTorch cannot write the module as ONNX"
                exported = torch.onnx.export(program, dynamo=True, verbose=False, optimize=False)
            else:  # It gives the sizes the names that they have here.
                step = "PyTorch cannot write the module as ONNX with open sizes"
                exported = torch.onnx.export(
                    module, inputs, dynamo=True, verbose=False, optimize=False,
                    dynamic_shapes=dynamic_shapes,
                )  # fmt: skip
        except ImportError as error:
            raise ImportError("from_torch needs: pip install 'masktools[torch,onnx]'") from error
        except Exception as error:
            raise GraphError(f"{step}: {_cause(error)}; {_OTHER_EXPORTER}") from error
    assert exported is not None
    return exported


def tied_layers(module: torch.nn.Module) -> dict[str, str]:
    """Map each layer that shares its weight with an earlier layer to that layer's name."""
    first: dict[int, str] = {}
    tied = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if names_layer(name):
            layer = layer_name(name, "")
            if first.setdefault(id(parameter), layer) != layer:
                tied[layer] = first[id(parameter)]
    return tied


def untied(given: Mapping[str, Any] | None, tied: Mapping[str, str]) -> dict[str, Any] | None:
    """Move masks or layouts of layers that share a weight to the first of these layers."""
    if given is None:
        return None
    for name, first in tied.items():
        if {name, first} <= given.keys() and not np.array_equal(given[name], given[first]):
            raise MaskError(f"layers {first!r} and {name!r} share their weight, but differ here")
    return {tied.get(name, name): value for name, value in given.items()}


def _cause(error: BaseException) -> str:
    """Return the first line of what PyTorch's error comes from; its own has pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    return f"{type(error).__name__}: {first.rstrip('.')}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch and onnx say about each other, and of sizes that are only tried."""
    loggers = {logging.getLogger(name): level for name, level in _LOUDEST.items()}
    before = {logger: logger.level for logger in loggers}
    for logger, level in loggers.items():
        logger.setLevel(level)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


@contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    before = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training
