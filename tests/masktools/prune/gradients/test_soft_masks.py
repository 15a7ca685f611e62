"""Continuous Sparsification: gradients of s, what moves it, rounds, and the density it leads to."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn import functional
from torch_networks import batch, chain

from masktools import MaskError, prune
from masktools.prune.gradients.prunable import Prunable
from masktools.prune.gradients.soft_masks import SoftMasks

X, Y = batch(channels=4, classes=3)
BATCHES = [(X[:6], Y[:6]), (X[6:], Y[6:])]
NAMES = ("0", "2", "4")


def nothing(outputs, targets):
    return 0 * outputs.sum()


def soft(module, start=0.0, masks=None):
    return SoftMasks(Prunable.of(module, None, (), (), masks=masks), start)


def objective(module, masks, b, penalty):
    outputs = functional_call(module, masks.weights(b), (torch.from_numpy(X),))
    return functional.cross_entropy(outputs, torch.from_numpy(Y)) + penalty * masks.total(b)


@pytest.mark.parametrize(("b", "start"), [(1.0, 0.0), (7.0, 0.05), (30.0, -0.02)])
def test_the_gradient_of_s_is_the_formula_and_what_differences_say(b, start):
    module, penalty = chain(), 1e-3
    masks = soft(module, start)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for s in masks.parameters:
            s.add_(torch.from_numpy(0.03 * rng.standard_normal(tuple(s.shape))))
    found = torch.autograd.grad(objective(module, masks, b, penalty), masks.parameters)
    effective = {n: w.detach().requires_grad_() for n, w in masks.weights(b).items()}
    value = functional.cross_entropy(
        functional_call(module, effective, (torch.from_numpy(X),)), torch.from_numpy(Y)
    )
    slopes = torch.autograd.grad(value, list(effective.values()))
    for name, s, ours, slope in zip(NAMES, masks.parameters, found, slopes, strict=True):
        m, w = torch.sigmoid(b * s), module.get_parameter(f"{name}.weight")
        torch.testing.assert_close(ours, b * m * (1 - m) * (w * slope + penalty))
        index = tuple(int(rng.integers(0, size)) for size in s.shape)
        ends = []
        for step in (1e-6, -2e-6):
            with torch.no_grad():
                s[index] += step
            ends.append(objective(module, masks, b, penalty).item())
        with torch.no_grad():
            s[index] += 1e-6
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(ours[index].item(), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("start", [-0.3, 0.0, 0.2])
def test_at_first_the_module_computes_what_it_did(start):
    module = chain()
    wanted = module(torch.from_numpy(X)).detach()
    masks = soft(module, start)
    found = functional_call(module, masks.weights(1.0), (torch.from_numpy(X),))
    torch.testing.assert_close(found.detach(), wanted)


def trained(module, monkeypatch, **options):
    """Return the masks, and (s, soft masks' sum) before each batch."""
    seen = []
    original = SoftMasks.weights

    def spied(self, b):
        values = {name: s.detach().clone() for name, s in self.s.items()}
        seen.append((b, values, float(self.total(1.0).detach())))
        return original(self, b)

    with monkeypatch.context() as patch:
        patch.setattr(SoftMasks, "weights", spied)
        masks = prune.continuous_sparsification(module, BATCHES, empty="report", **options)
    return masks, seen


def test_without_a_loss_the_sum_of_the_masks_falls(monkeypatch):
    _, seen = trained(chain(), monkeypatch, loss=nothing, penalty=0.01, rounds=1, epochs=4)
    totals = [total for *_, total in seen]
    assert all(after < before for before, after in pairwise(totals))


def test_s_has_no_weight_decay(monkeypatch):
    options = {"loss": nothing, "penalty": 0.0, "start": 0.25, "rounds": 1, "epochs": 3}
    masks, seen = trained(chain(), monkeypatch, weight_decay=0.1, **options)
    for _, values, _ in seen:
        assert all((s == 0.25).all() for s in values.values())
    assert all(masks[name].all() for name in NAMES)


def test_rounds_begin_with_a_bounded_s_and_soft_masks(monkeypatch):
    start, hardness = 0.0, 50.0
    options = {"start": start, "hardness": hardness, "rounds": 3, "epochs": 4}
    _, seen = trained(chain(), monkeypatch, **options)
    assert len(seen) == 3 * 4 * 2
    np.testing.assert_allclose(
        [b for b, *_ in seen], 3 * list(np.repeat(50 ** (np.arange(4) / 3), 2))
    )
    for first in (8, 16):
        for name in NAMES:
            assert (seen[first][1][name] <= start).all()
    assert any((seen[8][1][name] < start).any() for name in NAMES)


def test_the_learning_rate_falls_in_each_round():
    seen = []
    original = torch.optim.SGD.step

    def spied(self, *arguments):
        seen.append((self.param_groups[0]["lr"], self.param_groups[0]["weight_decay"]))
        return original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", spied)
        prune.continuous_sparsification(
            chain(), BATCHES[:1], rounds=2, epochs=17, rate=0.2, empty="report"
        )
    rates = 12 * [0.2] + 3 * [0.02] + 2 * [0.002]  # 56/85 of 17 epochs are 11.2, 71/85 are 14.2
    assert [rate for rate, _ in seen[::2]] == pytest.approx(2 * rates)
    assert [rate for rate, _ in seen[1::2]] == pytest.approx(2 * rates)
    assert {decay for _, decay in seen[::2]} == {1e-4}
    assert {decay for _, decay in seen[1::2]} == {0.0}


def test_the_next_round_multiplies_and_bounds():
    masks = soft(chain(), 0.1)
    with torch.no_grad():
        masks.s["0"].view(-1)[:4] = torch.tensor([-0.5, 0.0, 0.001, 3.0])
    masks.next_round(10.0)
    assert masks.s["0"].detach().view(-1)[:5].tolist() == pytest.approx([-5, 0, 0.01, 0.1, 0.1])


def test_the_weights_go_on_from_round_to_round_and_are_not_rewound(monkeypatch):
    module, seen = chain(), []
    original = SoftMasks.next_round

    def spied(self, hardness):
        seen.append(module[0].weight.detach().clone())
        original(self, hardness)
        assert torch.equal(seen[-1], module[0].weight)

    monkeypatch.setattr(SoftMasks, "next_round", spied)
    before = 2 * module[0].weight.detach().clone()
    prune.continuous_sparsification(module, BATCHES, rounds=3, epochs=1)
    assert len(seen) == 2
    assert not torch.equal(seen[0], before)
    assert not torch.equal(seen[0], seen[1])


def test_a_weight_is_kept_by_the_sign_of_s_however_near_to_none_its_mask_is():
    masks = soft(chain())
    with torch.no_grad():
        masks.s["0"].view(-1)[:4] = torch.tensor([1e-300, -1e-300, -1e9, 1e9], dtype=torch.float64)
    assert masks.masks()["0"].ravel()[:5].tolist() == [True, False, False, True, False]


def test_a_larger_start_gives_a_larger_density():
    found = []
    for start in (-0.05, 0.0, 0.05):
        masks = prune.continuous_sparsification(
            chain(), BATCHES, start=start, rounds=2, epochs=6, empty="report"
        )
        found.append(sum(int(masks[name].sum()) for name in NAMES))
    assert found[0] < found[1] < found[2]


def test_what_earlier_masks_prune_stays_pruned_and_counts_for_nothing():
    rng = np.random.default_rng(1)
    earlier = {
        n: rng.random(tuple(chain().get_parameter(f"{n}.weight").shape)) < 0.5 for n in NAMES
    }
    masks = soft(chain(), 0.1, earlier)
    wanted = sum(int(mask.sum()) for mask in earlier.values()) / (1 + np.exp(-0.1))
    assert masks.total(1.0).item() == pytest.approx(wanted)
    assert all(np.array_equal(masks.masks()[n], earlier[n]) for n in NAMES)
    for name, weight in masks.weights(1.0).items():
        assert not weight.detach().numpy()[~earlier[name.removesuffix(".weight")]].any()


def test_arguments_that_lead_nowhere_are_refused():
    for options, error, match in (
        ({"rounds": 0}, MaskError, "rounds must be at least 1, got 0"),
        ({"epochs": True}, TypeError, "epochs must be a whole number, got True"),
        ({"hardness": 0.5}, MaskError, r"hardness must be at least 1, got 0\.5"),
        ({"start": float("nan")}, MaskError, "start must be finite, got nan"),
    ):
        with pytest.raises(error, match=match):
            prune.continuous_sparsification(chain(), BATCHES, **options)
