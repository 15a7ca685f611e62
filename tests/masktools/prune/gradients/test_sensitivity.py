"""SNIP: scores against central differences in a gate, and what they do not depend on."""

from __future__ import annotations

import numpy as np
import torch
from torch.func import functional_call
from torch.nn import functional
from torch_networks import batch, chain

from masktools import prune

X, Y = batch(channels=4, classes=3)


def change_by_gate(module, name, index, step=1e-5):
    """Return |∂L/∂c| of a gate c at 1 that multiplies one weight, by central differences."""
    found = []
    for gate in (1 + step, 1 - step):
        weight = module.get_parameter(f"{name}.weight").detach().clone()
        weight[index] *= gate
        outputs = functional_call(module, {f"{name}.weight": weight}, (torch.from_numpy(X),))
        found.append(functional.cross_entropy(outputs, torch.from_numpy(Y)).item())
    return abs(found[0] - found[1]) / (2 * step)


def test_the_weights_kept_are_those_with_the_largest_slopes_of_gates():
    module = chain()
    names = ("0", "2", "4")
    slopes = {
        name: np.array(
            [
                change_by_gate(module, name, index)
                for index in np.ndindex(*module.get_parameter(f"{name}.weight").shape)
            ]
        )
        for name in names
    }
    everything = np.sort(np.concatenate(list(slopes.values())))[::-1]
    for density in (0.1, 0.4):
        masks = prune.snip(module, X, Y, density)
        kept = sum(int(masks[name].sum()) for name in names)
        assert kept == int(density * everything.size + 0.5)
        # Beyond the error of the differences, the best stay; next to it, either may.
        least = everything[kept - 1]
        for name in names:
            mask = masks[name].ravel()
            assert mask[slopes[name] > least * (1 + 1e-5)].all()
            assert not mask[slopes[name] < least * (1 - 1e-5)].any()


def test_the_ranks_do_not_depend_on_the_scale_of_the_loss():
    module = chain()
    masks = prune.snip(module, X, Y, 0.3)
    for scale in (2.0**-20, 2.0**30):
        scaled = prune.snip(
            module, X, Y, 0.3, loss=lambda o, t, s=scale: s * functional.cross_entropy(o, t)
        )
        assert all(np.array_equal(masks[name], scaled[name]) for name in masks)


def test_gradients_that_were_there_before_do_not_count():
    module = chain()
    masks = prune.snip(module, X, Y, 0.3)
    for parameter in module.parameters():
        parameter.grad = torch.randn_like(parameter)
    again = prune.snip(module, X, Y, 0.3)
    assert all(np.array_equal(masks[name], again[name]) for name in masks)


def test_inputs_may_be_tensors_or_arrays_of_another_float():
    module = chain(dtype=torch.float32)
    masks = prune.snip(module, X, Y, 0.3)
    again = prune.snip(module, torch.from_numpy(X).float(), torch.from_numpy(Y), 0.3)
    assert all(np.array_equal(masks[name], again[name]) for name in masks)
