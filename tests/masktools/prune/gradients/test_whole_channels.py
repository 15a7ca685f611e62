"""Channel pruning in one go: which channels stay, how many, and what is refused."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch_networks import batch, fingerprint, kept, residual, sizes

from masktools import MaskError, prune
from masktools.prune.gradients.whole_channels import ACROSS, CRITERIA

X, Y = batch()
NORMED = {"skip": ["last", "hidden"]}  # what is left is read by a BatchNorm
every = pytest.mark.parametrize("criterion", CRITERIA)


def channels(module, density=0.5, criterion="l1", **options):
    given = {"inputs": X, "targets": Y, **NORMED, "include": ["stem"], **options}
    return prune.channels(module, density, criterion=criterion, **given)


def rows(mask):
    flat = mask.reshape(len(mask), -1)
    assert (flat.all(1) | ~flat.any(1)).all()
    return np.flatnonzero(flat[:, 0]).tolist()


@every
@pytest.mark.parametrize("across", ACROSS)
def test_the_module_is_left_bit_for_bit_as_it_was_and_rows_are_whole(criterion, across):
    module = residual()
    before = fingerprint(module)
    masks = channels(module, criterion=criterion, across=across, empty="report")
    assert fingerprint(module) == before
    assert {name for name, mask in masks.items() if not mask.all()} <= {"stem", "conv"}
    assert all(rows(masks[name]) is not None for name in ("stem", "conv"))
    assert 0 < kept(masks, ("stem", "conv")) < sizes(module, ("stem", "conv"))


@every
def test_uniform_keeps_the_same_share_of_each_layer(criterion):
    for density, number in ((0.5, 4), (0.3, 2), (0.32, 3), (1.0, 8)):
        masks = channels(residual(), density, criterion, across="uniform")
        assert {len(rows(masks[name])) for name in ("stem", "conv")} == {number}


@every
@pytest.mark.parametrize("density", [0.1, 0.37, 0.5, 0.9, 1.0])
def test_global_fills_the_density_from_below_to_within_a_channel(criterion, density):
    module = residual()
    masks = channels(module, density, criterion, across="global", empty="report")
    room = int(density * sizes(module, ("stem", "conv")) + 0.5) - kept(masks, ("stem", "conv"))
    assert 0 <= room < 72
    if density == 1:
        assert room == 0


def test_each_criterion_keeps_the_channels_that_it_says():
    module = residual()
    with torch.no_grad():
        module.norm1.weight.copy_(torch.tensor([0.1, -5, 0.2, 3, 0.3, -2, 0.4, 1]))
        module.norm2.weight.copy_(torch.tensor([9.0, 0, 0, 0, 0, 0, -8, 7]))
    weight = module.conv.weight.detach().double().abs().sum((1, 2, 3)).numpy()
    assert rows(channels(module)["conv"]) == sorted(np.argsort(-weight)[:4].tolist())
    slim = channels(module, 0.5, "gamma", across="uniform")
    assert rows(slim["stem"]) == [1, 3, 5, 7]
    assert rows(slim["conv"]) == [0, 1, 6, 7]  # of equals the first
    found = prune.channel_scores(module, X, Y, criterion="molchanov")
    masks = channels(module, 0.5, "molchanov", across="uniform")
    for name in ("stem", "conv"):
        assert rows(masks[name]) == sorted(np.argsort(-found[name])[:4].tolist())


def test_by_default_layers_share_as_the_authors_of_the_criterion_do():
    module = residual()
    with torch.no_grad():
        module.norm1.weight.copy_(torch.linspace(2, 3, 8))
        module.norm2.weight.copy_(torch.linspace(0, 1, 8))
    total = sizes(module, ("stem", "conv"))
    masks = channels(module, (8 * 27 + 72) / total, "gamma")
    assert rows(masks["stem"]) == list(range(8))
    assert rows(masks["conv"]) == [7]
    for criterion in ("l1", "random"):
        masks = channels(module, 0.25, criterion)
        assert [len(rows(masks[name])) for name in ("stem", "conv")] == [2, 2]


def test_random_channels_follow_from_the_seed():
    found = [channels(residual(), criterion="random", seed=seed) for seed in (3, 3, 4)]
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])
    assert any(not np.array_equal(found[0][name], found[2][name]) for name in found[0])
    drawn = {
        tuple(rows(channels(residual(), criterion="random", seed=s)["conv"])) for s in range(9)
    }
    assert len(drawn) > 5


def test_gamma_is_of_the_norm_that_reads_the_layer_whatever_the_order_of_the_module():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.normb, self.norma = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            x = torch.relu_(self.norma(self.a(x)))
            return self.fc(torch.relu_(self.normb(self.b(x))).mean((2, 3)))

    module = Turned()
    with torch.no_grad():
        module.norma.weight.copy_(torch.tensor([1.0, 0, 1, 0]))
        module.normb.weight.copy_(torch.tensor([0.0, 1, 1, 0]))
    masks = prune.channels(module, 0.5, criterion="gamma", inputs=np.ones((2, 4, 3, 3)))
    assert rows(masks["a"]) == [0, 2]
    assert rows(masks["b"]) == [1, 2]


def test_emptied_layers_are_named_or_reported(caplog):
    module = residual()
    with torch.no_grad():
        module.norm2.weight.zero_()
    with pytest.raises(MaskError, match=r"nothing is left of layer 'conv' \(of 576 weights\)"):
        channels(module, 0.2, "gamma")
    with caplog.at_level(logging.WARNING, "masktools.prune"):
        assert not channels(module, 0.2, "gamma", empty="report")["conv"].any()
    assert "nothing is left of layer 'conv'" in caplog.text


def test_what_is_missing_or_wrong_is_refused():
    module = residual()
    for options, error, match in (
        ({"criterion": "l2"}, MaskError, "criterion must be one of l1, gamma, molchanov, random"),
        ({"across": "erk"}, MaskError, "across must be one of global, uniform, got 'erk'"),
        ({"criterion": "gamma", "inputs": None}, TypeError, "criterion 'gamma' runs the module"),
        ({"criterion": "molchanov", "targets": None}, TypeError, "give targets"),
        ({"criterion": "gamma", "skip": ["hidden"]}, MaskError, "layer 'last': no BatchNorm with"),
        ({"density": 0.0}, MaskError, "density 0.0 keeps none of the 792 weights"),
        ({"density": 0.01}, MaskError, r"density 0\.01 keeps no channel of any layer"),
        ({"density": 0.01, "across": "global"}, MaskError, "keeps no channel of any layer"),
        ({"seed": -1}, MaskError, "seed must be at least 0, got -1"),
    ):
        with pytest.raises(error, match=match):
            channels(module, **options)
    module.conv.weight.data[2, 1, 0, 0] = float("nan")
    with pytest.raises(MaskError, match=r"layer 'conv': weights must be finite, got nan at \(2, 1"):
        channels(module)
