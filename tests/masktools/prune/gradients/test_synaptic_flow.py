"""SynFlow: the flow is conserved, its rounds, and what it must not depend on."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch_networks import PRUNED, chain, residual

from masktools import MaskError, prune
from masktools.prune.gradients.prunable import Prunable
from masktools.prune.gradients.synaptic_flow import _normalising_nothing, flow


def deep_chain():
    """Return a chain with BatchNorm, a hidden matrix, and biases: all but skips."""
    torch.manual_seed(1)
    parts = []
    for before, width in ((3, 7), (7, 5), (5, 9)):
        parts += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    parts += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 4)]
    module = nn.Sequential(*parts).train()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            with torch.no_grad():
                part.running_mean.uniform_(-3, 3)
                part.running_var.uniform_(0.1, 9)
                part.weight.normal_()
                part.bias.normal_()
    return module


def flows(module, shape, masks=None):
    layers = Prunable.of(module, None, (), names(module), masks=masks)
    with _normalising_nothing(module):
        module.eval()
        return flow(module, layers, shape)


def names(module):
    return [n for n, p in module.named_modules() if isinstance(p, nn.Conv2d | nn.Linear)]


def test_every_layer_of_a_chain_passes_the_same_flow():
    module = deep_chain()
    sums = [one.sum() for one in flows(module, (3, 6, 6)).values()]
    assert len(sums) == 5
    np.testing.assert_allclose(sums, sums[0], rtol=1e-9)
    assert sums[0] > 0


def test_every_layer_passes_the_same_flow_under_masks_too():
    module = deep_chain()
    rng = np.random.default_rng(0)
    masks = {
        name: rng.random(tuple(module.get_submodule(name).weight.shape)) < 0.5
        for name in names(module)
    }
    found = flows(module, (3, 6, 6), masks)
    sums = [one.sum() for one in found.values()]
    np.testing.assert_allclose(sums, sums[0], rtol=1e-9)
    assert all(not one[~masks[name]].any() for name, one in found.items())


def test_what_flows_into_a_hidden_unit_flows_out_of_it():
    found = list(flows(deep_chain(), (3, 6, 6)).values())
    for before, after in pairwise(found):
        into = before.reshape(len(before), -1).sum(1)
        out = np.moveaxis(after, 1, 0).reshape(after.shape[1], -1).sum(1)
        np.testing.assert_allclose(into, out, rtol=1e-9)


def test_scores_are_what_the_flow_changes_by_when_a_weight_goes():
    """Exactly, for R is linear in one weight of a chain."""
    module = deep_chain()
    found = flows(module, (3, 6, 6))
    for name, index in (("0", (2, 1, 0, 1)), ("3", (1, 6, 2, 2)), ("11", (3, 4)), ("13", (0, 5))):
        masks = {n: np.ones(one.shape, bool) for n, one in found.items()}
        masks[name][index] = False
        without = flows(module, (3, 6, 6), masks)[name].sum()
        np.testing.assert_allclose(found[name].sum() - without, found[name][index], rtol=1e-8)


def test_no_layer_is_emptied_at_ten_weights_a_layer():
    module = chain((4, 16, 30, 6, 20), dtype=torch.float32)
    with torch.no_grad():
        module[2].weight.mul_(1e-3)  # magnitudes alone would empty it
    names_pruned = ("0", "2", "4", "6")
    total = sum(module.get_submodule(n).weight.numel() for n in names_pruned)
    density = 40 / total
    weights = {
        n: p.weight.detach().numpy()
        for n, p in module.named_modules()
        if n in (*names_pruned, "10")
    }
    assert not prune.magnitude(weights, density)["2"].any()
    masks = prune.synflow(module, (4, 5, 5), density, empty="report")
    assert sum(int(masks[n].sum()) for n in names_pruned) == 40
    assert all(masks[n].any() for n in names_pruned)


def test_rounds_keep_the_powers_of_the_density_and_masks_are_nested():
    module = residual()
    seen = []
    original = Prunable.best

    def spied(self, scores, count):
        kept = original(self, scores, count)
        seen.append((count, kept))
        return kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prunable, "best", spied)
        prune.synflow(module, (3, 5, 5), 0.1, rounds=5)
    total = sum(getattr(module, name).weight.numel() for name in PRUNED)
    assert [count for count, _ in seen] == [int(0.1 ** (k / 5) * total + 0.5) for k in range(1, 6)]
    for (_, before), (_, after) in pairwise(seen):
        assert not any((after[name] & ~before[name]).any() for name in PRUNED)


def test_signs_statistics_and_biases_do_not_count():
    module, other = deep_chain(), deep_chain()
    with torch.no_grad():
        for name, tensor in other.state_dict().items():
            if name.endswith("weight") and tensor.ndim > 1:
                tensor.mul_(-1)
            elif tensor.is_floating_point():
                tensor.normal_().abs_().add_(0.5)
    first, second = flows(module, (3, 6, 6)), flows(other, (3, 6, 6))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_small_flows_do_not_vanish_as_in_float32():
    module = deep_chain()
    with torch.no_grad():
        for name in names(module):
            module.get_submodule(name).weight.mul_(1e-12)
    assert prune.synflow(module, (3, 6, 6), 0.3, rounds=3)["3"].any()


@pytest.mark.parametrize(("scale", "said"), [(0.0, "0.0"), (1e300, "inf")])
def test_a_flow_that_no_mask_can_be_made_of_is_refused(scale, said):
    module = chain()
    with torch.no_grad():
        for name in ("2", "4"):
            module.get_submodule(name).weight.mul_(scale)
    with pytest.raises(MaskError, match=f"the flow from inputs to outputs is {said}"):
        prune.synflow(module, (4, 5, 5), 0.3)


def test_arguments_that_are_none_are_refused():
    with pytest.raises(MaskError, match="rounds must be at least 1, got 0"):
        prune.synflow(chain(), (4, 5, 5), 0.3, rounds=0)
    with pytest.raises(TypeError, match=r"shape must be a whole number, got 5.0"):
        prune.synflow(chain(), (4, 5, 5.0), 0.3)
