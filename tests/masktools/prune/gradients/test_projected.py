"""ADMM: projections against all others, its arithmetic, and where it leads."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn
from torch_networks import batch, chain

from masktools import MaskError, prune
from masktools.prune.gradients.projected import Splitting, layer_counts
from masktools.prune.gradients.prunable import Prunable

X, Y = batch(channels=4, classes=3)
BATCHES = [(X[:6], Y[:6]), (X[6:], Y[6:])]


def matrices(*values):
    """Return matrices of given weights and no bias as a module, and its layers to prune."""
    module = nn.Sequential(*[nn.Linear(len(v[0]), len(v), bias=False).double() for v in values])
    with torch.no_grad():
        for part, value in zip(module, values, strict=True):
            part.weight.copy_(torch.tensor(value))
    return module, Prunable.of(module, None, (), [str(n) for n in range(len(values))])


@pytest.mark.parametrize("kept", [0, 1, 3, 6])
def test_no_other_support_is_nearer(kept):
    value = np.random.default_rng(kept).standard_normal((2, 3))
    _, layers = matrices(value)
    found = Splitting(layers, {"0": kept}).pruned["0"].numpy()
    assert np.count_nonzero(found) == kept
    distance = np.square(value - found).sum()
    for places in combinations(range(6), kept):
        other = np.zeros(6)
        other[list(places)] = value.ravel()[list(places)]
        assert distance <= np.square(value.ravel() - other).sum() + 1e-15


def test_z_is_the_projection_of_w_and_u_together_and_u_sums_the_differences():
    module, layers = matrices([[3.0, -2.0, 1.0, 0.0]])
    split = Splitting(layers, {"0": 2})
    assert split.pruned["0"].tolist() == [[3, -2, 0, 0]]
    assert split.sums["0"].tolist() == [[0, 0, 0, 0]]
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[3.0, -1.0, 2.5, 0.0]]))
    split.update()  # Z = Π(W), U = W - Z
    assert split.pruned["0"].tolist() == [[3, 0, 2.5, 0]]
    assert split.sums["0"].tolist() == [[0, -1, 0, 0]]
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[3.0, -1.75, 2.5, 0.5]]))
    split.update()  # W + U = 3, -2.75, 2.5, 0.5: the second is kept for what it was denied before
    assert split.pruned["0"].tolist() == [[3, -2.75, 0, 0]]
    assert split.sums["0"].tolist() == [[0, 0, 2.5, 0.5]]
    split.strengthen(0.25)
    wanted = 0.125 * ((-1.75 + 2.75) ** 2 + (2.5 + 2.5) ** 2 + 1.0**2)
    assert split.penalty().item() == pytest.approx(wanted)
    split.strengthen(2.5)
    assert split.sums["0"].tolist() == [[0, 0, 0.25, 0.05]]
    assert split.masks()["0"].tolist() == [[True, False, True, False]]  # of W alone


def test_the_penalty_pulls_by_its_strength_times_the_difference():
    module, layers = matrices([[3.0, -2.0, 1.0]], [[0.5], [4.0]])
    split = Splitting(layers, {"0": 1, "1": 1})
    split.update()
    split.strengthen(0.3)
    split.penalty().backward()
    for name, part in zip(("0", "1"), module, strict=True):
        pull = 0.3 * (part.weight - split.pruned[name] + split.sums[name])
        torch.testing.assert_close(part.weight.grad, pull)


def spied(module, before=False, **options):
    """Return the masks, and all parameters as they were after each step, or before."""
    seen = []

    def optimizer(parameters):
        found = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        hook = found.register_step_pre_hook if before else found.register_step_post_hook
        hook(lambda *_: seen.append([p.detach().clone() for p in module.parameters()]))
        return found

    return prune.admm(module, BATCHES, 0.3, optimizer=optimizer, **options), seen


def test_without_a_pull_the_module_is_trained_as_by_plain_sgd():
    module = chain()
    masks, seen = spied(module, steps=3, epochs=2, penalty=0.0)
    sgd = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    for number in range(12):
        x, y = BATCHES[number % 2]
        sgd.zero_grad()
        nn.functional.cross_entropy(module(torch.tensor(x)), torch.tensor(y)).backward()
        sgd.step()
        for ours, theirs in zip(seen[number], module.parameters(), strict=True):
            assert torch.equal(ours, theirs.detach())
    assert len(seen) == 12
    # The masks are of the trained weights, so many a layer as the first weights gave.
    first = prune.magnitude(
        {n: chain().get_parameter(f"{n}.weight").detach() for n in ("0", "2", "4", "8")}, 0.3
    )
    for name in ("0", "2", "4"):
        sizes = module.get_parameter(f"{name}.weight").detach().abs().numpy()
        assert masks[name].sum() == first[name].sum()
        assert sizes[masks[name]].min() >= sizes[~masks[name]].max()


def test_the_pull_changes_what_is_trained_and_only_in_the_pruned_layers_directly():
    _, free = spied(chain(), steps=1, penalty=0.0)
    module = chain()
    _, pulled = spied(module, steps=1, penalty=0.1)
    same = {
        name: torch.equal(a, b)
        for (name, _), a, b in zip(module.named_parameters(), free[0], pulled[0], strict=True)
    }
    assert {name for name, equal in same.items() if not equal} == {f"{n}.weight" for n in "024"}


def test_what_earlier_masks_prune_is_held_at_zero():
    rng = np.random.default_rng(2)
    module = chain()
    masks = {
        n: rng.random(tuple(module.get_parameter(f"{n}.weight").shape)) < 0.7
        for n in ("0", "2", "4")
    }
    found, seen = spied(module, before=True, steps=2, masks=masks, skip=["4"])
    weights = dict(zip([name for name, _ in module.named_parameters()], seen[-1], strict=True))
    for name in ("0", "2"):
        held = weights[f"{name}.weight"].numpy() == 0
        assert np.array_equal(held, ~masks[name])
        assert not (found[name] & ~masks[name]).any()
    assert weights["4.weight"].all()


def test_on_a_convex_quadratic_weights_and_their_pruned_form_meet():
    rng = np.random.default_rng(0)
    target = torch.from_numpy(rng.standard_normal((4, 6)))
    module, layers = matrices(rng.standard_normal((4, 6)))
    split = Splitting(layers, {"0": 8})
    weight = module[0].weight
    curvature = torch.from_numpy(rng.uniform(0.5, 2, (4, 6)))
    gaps = []
    for _ in range(200):
        split.strengthen(3.0)
        sgd = torch.optim.SGD([weight], lr=0.1)
        for _ in range(60):
            sgd.zero_grad()
            ((curvature * (weight - target).square()).sum() / 2 + split.penalty()).backward()
            sgd.step()
        split.update()
        gaps.append(float((weight - split.pruned["0"]).norm().detach()))
    assert gaps[0] > 0.1
    assert gaps[-1] < 1e-6
    # There the kept weights are free: they stand at the target.
    kept = split.masks()["0"]
    assert kept.sum() == 8
    np.testing.assert_allclose(weight.detach().numpy()[kept], target.numpy()[kept], atol=1e-6)


def test_the_pull_grows_tenfold_after_each_quarter_of_the_steps(monkeypatch):
    seen = []
    monkeypatch.setattr(Splitting, "strengthen", lambda self, strength: seen.append(strength))
    prune.admm(chain(), BATCHES, 0.3, steps=8)
    np.testing.assert_allclose(seen, np.repeat([1e-4, 1e-3, 1e-2, 1e-1], 2))
    seen.clear()
    prune.admm(chain(), BATCHES, 0.3, steps=4, penalty=0.05)
    assert seen == [0.05, 0.1, 0.1, 0.1]


@pytest.mark.parametrize("across", ["global", "uniform", "erk", "lamp"])
def test_layers_keep_what_pruning_by_magnitude_gives_them(across):
    module = chain()
    weights = {n: module.get_parameter(f"{n}.weight").detach() for n in ("0", "2", "4", "8")}
    wanted = prune.magnitude(weights, 0.3, across=across)
    layers = Prunable.of(module, None, (), ())
    found = layer_counts(layers, layers.count(0.3), across)
    assert found == {name: int(wanted[name].sum()) for name in found}
    masks = prune.admm(module, BATCHES, 0.3, across=across, steps=1)
    assert {name: int(masks[name].sum()) for name in found} == found


def test_the_seed_draws_what_training_draws():
    module = nn.Sequential(*chain(), nn.Dropout(0.5))
    found = [prune.admm(module, BATCHES, 0.3, steps=2, seed=seed) for seed in (1, 1, 2)]
    assert all(np.array_equal(found[0][n], found[1][n]) for n in found[0])


def test_arguments_that_lead_nowhere_are_refused():
    for options, error, match in (
        ({"steps": 0}, MaskError, "steps must be at least 1, got 0"),
        ({"epochs": 1.5}, TypeError, r"epochs must be a whole number, got 1\.5"),
        ({"penalty": -1.0}, MaskError, r"penalty must be from 0 to 0\.1, got -1"),
        ({"across": "own"}, MaskError, "across must be one of global, uniform, erk, lamp"),
    ):
        with pytest.raises(error, match=match):
            prune.admm(chain(), BATCHES, 0.3, **options)


def test_training_that_runs_away_is_refused():
    with pytest.raises(MaskError, match=r"batch [12]: the loss is (nan|inf).*learning rate"):
        prune.admm(chain(), BATCHES, 0.3, optimizer=lambda p: torch.optim.SGD(p, lr=1e200), steps=3)
