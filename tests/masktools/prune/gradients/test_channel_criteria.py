"""Scores of channels: by definition, what they must not depend on, and refill takes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch_networks import batch, chain, fingerprint, residual

import masktools
from masktools import MaskError, prune
from masktools.prune.gradients.channel_criteria import CRITERIA, maps_and_slopes
from masktools.prune.gradients.losses import cross_entropy

X, Y = batch()
every = pytest.mark.parametrize("criterion", CRITERIA)


def pointwise(seed=0, widths=(3, 6, 5), inplace=False):
    """Return 1 x 1 convolutions, which treat every pixel alike, up to a mean over the pixels."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(widths[0], widths[1], 1),
        nn.ELU(inplace=inplace),
        nn.Conv2d(widths[1], widths[2], 1),
        nn.BatchNorm2d(widths[2]),
        nn.ELU(inplace=inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(widths[2], 4),
    ).double()


def scores(module, criterion, x=X, y=Y, **options):
    return prune.channel_scores(module, x, y, criterion=criterion, **options)


@every
def test_the_module_is_left_bit_for_bit_as_it_was(criterion):
    module = residual()
    before = fingerprint(module)
    found = scores(module, criterion)
    assert fingerprint(module) == before
    assert {name: one.shape for name, one in found.items()} == {
        "stem": (8,),
        "deep": (8,),
        "conv": (8,),
        "last": (6,),
        "hidden": (9,),
        "head": (4,),
    }
    assert all(one.dtype == np.float64 and (one >= 0).all() for one in found.values())
    with pytest.raises(MaskError, match="the loss is nan"):
        scores(module, "first-order", loss=lambda out, _: out.sum() * float("nan"))
    assert fingerprint(module) == before


@every
def test_scores_are_their_definitions_computed_by_hand(criterion):
    module = pointwise().eval()
    x = torch.from_numpy(X).requires_grad_()
    first = module[0](x)
    first.retain_grad()
    second = module[2](functional.elu(first))
    second.retain_grad()
    functional.cross_entropy(module[3:](second), torch.from_numpy(Y)).backward()
    for name, z in (("0", first), ("2", second)):
        weight = module.get_parameter(f"{name}.weight")
        wanted = {
            "feature-l1": z.abs().sum((0, 2, 3)),
            "feature-l2": z.square().sum((0, 2, 3)).sqrt(),
            "first-order": (z * z.grad).abs().sum((0, 2, 3)),
            "molchanov": (weight * weight.grad).sum((1, 2, 3)).square(),
        }[criterion]
        np.testing.assert_allclose(scores(module, criterion)[name], wanted.detach(), rtol=1e-10)


@pytest.mark.parametrize("criterion", ["feature-l1", "feature-l2"])
def test_each_layer_is_scored_by_what_it_makes_itself(criterion):
    module, other = pointwise(), pointwise()
    with torch.no_grad():
        other[2].weight[1] *= 2
        other[2].bias[1] *= 2
    found, changed = scores(module, criterion), scores(other, criterion)
    assert found["2"][1] != pytest.approx(changed["2"][1])
    np.testing.assert_array_equal(found["0"], changed["0"])
    np.testing.assert_array_equal(np.delete(found["2"], 1), np.delete(changed["2"], 1))


@every
def test_the_order_of_samples_and_pixels_does_not_count(criterion):
    rng = np.random.default_rng(3)
    order, pixels = rng.permutation(len(X)), rng.permutation(25)
    moved = X.reshape(*X.shape[:2], 25)[..., pixels].reshape(X.shape)
    found = scores(pointwise(), criterion)
    for x, y in ((X[order], Y[order]), (moved, Y)):
        for name, one in scores(pointwise(), criterion, x, y).items():
            np.testing.assert_allclose(one, found[name], rtol=1e-9)


@every
def test_permuted_channels_have_permuted_scores(criterion):
    module, other = pointwise(), pointwise()
    order = [4, 2, 0, 5, 1, 3]
    with torch.no_grad():
        other[0].weight.copy_(module[0].weight[order])
        other[0].bias.copy_(module[0].bias[order])
        other[2].weight.copy_(module[2].weight[:, order])
    found, changed = scores(module, criterion), scores(other, criterion)
    np.testing.assert_allclose(changed["0"], found["0"][order], rtol=1e-9)
    np.testing.assert_allclose(changed["2"], found["2"], rtol=1e-9)


def test_products_of_maps_and_slopes_sum_to_the_slope_of_a_gate():
    module = pointwise().eval()
    weights = {n: module.get_parameter(f"{n}.weight") for n in ("0", "2", "7")}
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    found = maps_and_slopes(module, weights, (x, y), cross_entropy)
    for name in weights:
        ((z, dz),) = found[name]
        for channel in range(len(z)):
            ends = []
            for gate in (1 + 1e-6, 1 - 1e-6):

                def scaled(_, __, output, channel=channel, gate=gate):
                    factor = torch.ones(output.shape[1], dtype=output.dtype)
                    factor[channel] = gate
                    return output * factor.reshape(1, -1, *[1] * (output.ndim - 2))

                handle = module.get_submodule(name).register_forward_hook(scaled)
                ends.append(functional.cross_entropy(module(x), y).item())
                handle.remove()
            slope = (ends[0] - ends[1]) / 2e-6
            assert (z * dz)[channel].sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-8)


@every
def test_functions_that_work_in_place_do_not_change_the_scores(criterion):
    module, other = pointwise(), pointwise(inplace=True)
    found, changed = scores(module, criterion), scores(other, criterion)
    for name, one in found.items():
        np.testing.assert_allclose(changed[name], one, rtol=1e-10)


@every
def test_the_mode_of_the_module_does_not_count(criterion):
    found, again = scores(residual().train(), criterion), scores(residual().eval(), criterion)
    assert all(np.array_equal(found[name], again[name]) for name in found)


@every
def test_a_layer_that_is_called_twice_counts_twice(criterion):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 3, 1).double()
            self.head = nn.Linear(3, 4).double()
            self.unused = nn.Linear(5, 4).double()

        def forward(self, x):
            x = self.conv(x) + self.conv(-2 * x)
            return self.head(x.mean((2, 3)))

    found = scores(Twice(), criterion)
    assert list(found) == ["conv", "head"]
    if criterion == "feature-l1":
        conv = Twice().conv
        x = torch.from_numpy(X)
        wanted = (conv(x).abs() + conv(-2 * x).abs()).sum((0, 2, 3)).detach()
        np.testing.assert_allclose(found["conv"], wanted)


@every
def test_matrices_have_their_channels_last(criterion):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 15, 4))
    found = scores(module, criterion)
    assert found["0"].shape == (6,)
    if criterion == "feature-l1":
        z = module[0](torch.from_numpy(X).float().reshape(-1, 5)).abs().sum(0)
        x = prune.channel_scores(module, X, criterion=criterion)
        np.testing.assert_allclose(x["0"], z.detach(), rtol=1e-5)


@every
def test_masks_are_in_force(criterion):
    module = chain(widths=(3, 6, 5), classes=4)
    rng = np.random.default_rng(0)
    masks = {"0": rng.random((6, 3, 3, 3)) < 0.5}
    masks["0"][2] = False
    with torch.no_grad():
        module[0].bias.zero_()
    found = scores(module, criterion, masks=masks)
    assert found["0"][2] == 0
    assert (np.delete(found["0"], 2) > 0).any()
    with torch.no_grad():
        module[0].weight.mul_(torch.from_numpy(masks["0"]))
    again = scores(module, criterion)
    assert all(np.array_equal(found[name], again[name]) for name in found)
    with pytest.raises(MaskError, match="masks: there is no layer 'nothing'; there are '0', '2'"):
        scores(module, criterion, masks={"nothing": masks["0"]})


@every
def test_refill_and_convert_take_them(criterion):
    module = residual()
    weights = {n: getattr(module, n).weight.detach().numpy() for n in ("conv", "last", "head")}
    masks = prune.random(weights, 0.5)
    found = scores(module, criterion, masks=masks)
    mask = masktools.refill(masks["conv"], None, criterion=criterion, scores=found["conv"])
    result = masktools.convert(
        masks, weights, method="refill", criterion=criterion, scores=found, progress=False
    )
    assert np.array_equal(result.masks["conv"], mask)
    k = int(mask[:, 0, 0, 0].sum())
    best = np.argsort(-found["conv"], kind="stable")[:k]
    assert sorted(best.tolist()) == np.flatnonzero(mask[:, 0, 0, 0]).tolist()


def test_what_is_missing_or_wrong_is_refused():
    module = residual()
    with pytest.raises(MaskError, match="criterion must be one of feature-l1, feature-l2, first-o"):
        scores(module, "l1")
    for criterion in ("first-order", "molchanov"):
        with pytest.raises(TypeError, match=f"criterion '{criterion}' has a gradient.*targets"):
            prune.channel_scores(module, X, criterion=criterion)
    with pytest.raises(MaskError, match="targets must be classes from 0 to 3, got 7"):
        scores(module, "molchanov", y=np.full(12, 7))
    with pytest.raises(MaskError, match=r"layer 'stem': scores must be finite, got nan at \(0,\)"):
        scores(module, "feature-l1", x=X * np.nan)
    with pytest.raises(MaskError, match="there are no inputs"):
        scores(module, "feature-l1", x=X[:0])
