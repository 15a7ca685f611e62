"""Leave a module as it was, whatever is done with it meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn


@contextmanager
def preserved(module: nn.Module, seed: int = 0) -> Iterator[None]:
    """Put a module back afterwards, bit for bit, and PyTorch's random state too.

    Weights, buffers, gradients, `requires_grad`, the mode of every submodule, and which tensors
    these are. Inside, random numbers follow from `seed`, and gradients are on.

    Parameters
    ----------
    module : torch.nn.Module
    seed : int, default 0
        Of the processor's random numbers, and of those of the devices that the module is on.
    """
    parts = list(module.modules())
    homes = [(part, dict(part._parameters), dict(part._buffers), part.training) for part in parts]
    tensors = {
        id(tensor): tensor
        for _, parameters, buffers, _ in homes
        for tensor in (*parameters.values(), *buffers.values())
        if tensor is not None
    }
    before = [
        (tensor, tensor.detach().clone(), tensor.requires_grad, tensor.grad, _copy(tensor.grad))
        for tensor in tensors.values()
    ]
    devices = sorted({tensor.device.index for tensor in tensors.values() if tensor.is_cuda})
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices))
        torch.default_generator.manual_seed(seed)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        try:
            yield
        finally:
            for part, parameters, buffers, training in homes:
                part._parameters.clear()
                part._parameters.update(parameters)
                part._buffers.clear()
                part._buffers.update(buffers)
                part.training = training
            with torch.no_grad():
                for tensor, value, requires_grad, grad, grad_value in before:
                    tensor.copy_(value)
                    tensor.requires_grad_(requires_grad)
                    if grad is not None and grad_value is not None:
                        grad.copy_(grad_value)
                    tensor.grad = grad


def _copy(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach().clone()
