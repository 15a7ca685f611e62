"""GraSP: Hessian times gradient against differences, the sign, and batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn import functional
from torch_networks import batch, chain

from masktools import MaskError, prune

X, Y = batch(channels=4, classes=3)
NAMES = ("0", "2", "4")


def smooth():
    """Return a chain whose loss has second derivatives everywhere, and large ones."""
    module = chain()
    for at in (1, 3, 5):
        module[at] = torch.nn.Softplus()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    return module


def gradient(module, weights, temperature):
    leaves = {name: w.clone().requires_grad_() for name, w in weights.items()}
    named = {f"{name}.weight": leaf for name, leaf in leaves.items()}
    outputs = functional_call(module, named, (torch.from_numpy(X),))
    value = functional.cross_entropy(outputs / temperature, torch.from_numpy(Y))
    return dict(zip(NAMES, torch.autograd.grad(value, list(leaves.values())), strict=True))


def scores(module, temperature):
    """Return w (H g) by central differences of the gradient along itself."""
    weights = {name: module.get_parameter(f"{name}.weight").detach() for name in NAMES}
    g = gradient(module, weights, temperature)
    step = 1e-4 / max(float(one.abs().max()) for one in g.values())
    ends = [
        gradient(module, {n: w + sign * step * g[n] for n, w in weights.items()}, temperature)
        for sign in (1, -1)
    ]
    return {
        name: (weights[name] * (ends[0][name] - ends[1][name]) / (2 * step)).numpy()
        for name in NAMES
    }


@pytest.mark.parametrize("temperature", [1.0, 200.0])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.8])
def test_weights_of_the_largest_signed_products_are_kept(density, temperature):
    module = smooth()
    wanted = scores(module, temperature)
    everything = np.sort(np.concatenate([one.ravel() for one in wanted.values()]))[::-1]
    masks = prune.grasp(module, X, Y, density, temperature=temperature, empty="report")
    kept = sum(int(masks[name].sum()) for name in NAMES)
    assert kept == int(density * everything.size + 0.5)
    least, room = everything[kept - 1], 1e-6 * np.abs(everything).max()
    for name in NAMES:
        assert masks[name][wanted[name] > least + room].all()
        assert not masks[name][wanted[name] < least - room].any()
    # The sign counts: by magnitudes the mask would be another one.
    assert everything[-1] < -1e3 * room


def test_masks_are_the_same_in_one_batch_and_in_several():
    module = smooth()
    whole = prune.grasp(module, X, Y, 0.3)
    for size in (6, 5, 12, 100):
        parts = prune.grasp(module, X, Y, 0.3, batch=size)
        assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    # It is not the mean of what the halves would give: g is of all samples.
    halves = [prune.grasp(module, X[half], Y[half], 0.3) for half in (slice(6), slice(6, None))]
    assert any(not np.array_equal(whole[name], halves[0][name]) for name in whole)


def test_temperatures_and_batches_that_are_none_are_refused():
    with pytest.raises(MaskError, match="temperature must be above 0, got 0"):
        prune.grasp(chain(), X, Y, 0.3, temperature=0)
    with pytest.raises(MaskError, match="batch must be at least 1, got 0"):
        prune.grasp(chain(), X, Y, 0.3, batch=0)
