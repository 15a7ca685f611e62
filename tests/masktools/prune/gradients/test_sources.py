"""All sources alike: the module stays as it was, counts are exact, what is refused and how."""

from __future__ import annotations

import logging
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch_networks import PRUNED, batch, fingerprint, kept, residual, sizes

from masktools import MaskError, prune
from masktools.prune.gradients.preserved import preserved

X, Y = batch()


def snip(module, density=0.3, **options):
    return prune.snip(module, X, Y, density, **options)


def grasp(module, density=0.3, **options):
    return prune.grasp(module, X, Y, density, **options)


def synflow(module, density=0.3, **options):
    return prune.synflow(module, (3, 5, 5), density, **{"rounds": 4, **options})


def batches():
    return [(X[:6], Y[:6]), (X[6:], Y[6:])]


def admm(module, density=0.3, **options):
    return prune.admm(module, batches(), density, **{"steps": 2, **options})


def continuous(module, density=0.3, **options):
    """Its density cannot be given: a small one empties all layers."""
    chosen = {"rounds": 2, "epochs": 2, "start": 0.0 if density > 0.1 else -9.0}
    return prune.continuous_sparsification(module, batches(), **{**chosen, **options})


SOURCES = {source.__name__: source for source in (snip, grasp, synflow, admm, continuous)}
EXACT = [SOURCES[name] for name in ("snip", "grasp", "synflow", "admm")]
TRAINED = [SOURCES[name] for name in ("admm", "continuous")]
WITH_TARGETS = [SOURCES[name] for name in ("snip", "grasp", "admm", "continuous")]

every = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
exact = pytest.mark.parametrize("source", EXACT, ids=lambda s: s.__name__)
at_start = pytest.mark.parametrize("source", [snip, grasp], ids=lambda s: s.__name__)
trained = pytest.mark.parametrize("source", TRAINED, ids=lambda s: s.__name__)
with_targets = pytest.mark.parametrize("source", WITH_TARGETS, ids=lambda s: s.__name__)


# The module


@every
def test_the_module_is_left_bit_for_bit_as_it_was(source):
    module = residual()
    before = fingerprint(module)
    source(module)
    assert fingerprint(module) == before


@every
def test_the_module_is_left_as_it_was_by_an_error_too(source):
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = residual()
            self.calls = 0

        def forward(self, x):
            y = self.inner(x)
            self.calls += 1
            return y * float("nan")

    module = Failing()
    module.inner.norm1.eval()
    module.calls = 0
    before = fingerprint(module)
    with pytest.raises(MaskError, match=r"finite|nan"):
        source(module)
    assert module.calls == 1
    assert fingerprint(module) == before


@every
def test_masks_are_the_same_each_time_whatever_the_mode_and_the_random_state(source):
    first = source(residual())
    module = residual().eval()
    torch.manual_seed(99)
    with torch.no_grad():
        again = source(module)
    assert list(first) == ["stem", "deep", "conv", "last", "hidden", "head"]
    assert all(np.array_equal(first[name], again[name]) for name in first)


@every
@pytest.mark.parametrize("seed", range(3))
def test_a_module_in_training_has_the_masks_of_one_in_evaluation(source, seed):
    first, again = source(residual(seed).train()), source(residual(seed).eval())
    assert all(np.array_equal(first[name], again[name]) for name in first)


@every
def test_masks_are_bool_in_the_shape_of_the_weights_and_dense_layers_are_whole(source):
    module = residual()
    for name, mask in source(module).items():
        assert mask.dtype == np.bool_
        assert mask.shape == tuple(getattr(module, name).weight.shape)
        assert mask.all() == (name not in PRUNED)


def meddle(module):
    module.eval()
    module.stem.weight.data.mul_(-1)
    module.norm1.running_mean = torch.zeros(8)
    module.norm1.weight.grad.zero_()
    module.head.weight = nn.Parameter(torch.zeros(4, 9))
    module.conv.register_buffer("mask", torch.ones(3))
    module.last.weight.requires_grad_(True)
    module.zero_grad()
    torch.rand(5)
    raise ZeroDivisionError


def test_what_is_done_to_a_module_meanwhile_is_undone():
    module = residual()
    module.norm1.weight.grad = torch.full((8,), float("nan"))
    before = fingerprint(module)
    with pytest.raises(ZeroDivisionError), preserved(module, seed=3):
        meddle(module)
    assert fingerprint(module) == before


def test_a_module_can_be_preserved_inside_inference_mode():
    module = residual()
    masks = snip(module)
    with torch.inference_mode():
        again = snip(module)
    assert all(np.array_equal(masks[name], again[name]) for name in masks)


def test_the_random_state_inside_is_that_of_the_seed():
    drawn = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        with preserved(residual(), seed=7):
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


# Counts, and layers


@exact
@pytest.mark.parametrize("density", [0.05, 0.3, 0.55, 1.0])
def test_exactly_the_density_is_kept(source, density):
    module = residual()
    masks = source(module, density, empty="report")
    assert kept(masks) == int(density * sizes(module) + 0.5)


@exact
def test_what_earlier_masks_prune_stays_pruned(source):
    module = residual()
    rng = np.random.default_rng(5)
    earlier = {name: rng.random(mask.shape) < 0.6 for name, mask in source(module).items()}
    masks = source(module, 0.3, masks=earlier)
    assert kept(masks) == int(0.3 * sizes(module) + 0.5)
    assert not any((masks[name] & ~earlier[name]).any() for name in PRUNED)
    assert any((source(module)[name] & ~earlier[name]).any() for name in PRUNED)
    with pytest.raises(MaskError, match=r"the masks given keep only \d+: ask for a smaller"):
        source(module, 0.9, masks=earlier)
    with pytest.raises(MaskError, match="masks has no mask of layer 'conv'"):
        source(module, masks={"last": earlier["last"]})


@exact
def test_pruned_values_do_not_count_after_an_earlier_mask(source):
    module = residual()
    rng = np.random.default_rng(5)
    earlier = {name: rng.random(mask.shape) < 0.6 for name, mask in source(module).items()}
    masks = source(module, 0.3, masks=earlier)
    with torch.no_grad():
        for name in PRUNED:
            getattr(module, name).weight[torch.from_numpy(~earlier[name])] = 1e3
    again = source(module, 0.3, masks=earlier)
    assert all(np.array_equal(masks[name], again[name]) for name in masks)


@every
def test_skip_and_include_choose_layers_as_by_magnitude(source):
    module = residual()
    chosen = {"skip": ["hidden"], "include": ["stem", "head"]}
    weights = {n: getattr(module, n).weight.detach().numpy() for n in source(module)}
    ours = source(module, **chosen)
    theirs = prune.magnitude(weights, 0.3, **chosen)
    assert {n for n, m in ours.items() if m.all()} == {n for n, m in theirs.items() if m.all()}
    with pytest.raises(MaskError, match="skip: there is no layer 'nothing'; there are 'stem'"):
        source(module, skip=["nothing"])


def test_weights_that_are_shared_have_one_mask_under_the_first_name():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 3, padding=1)
    twin = nn.Conv2d(4, 4, 3, padding=1)
    twin.weight = conv.weight
    module = nn.Sequential(conv, nn.ReLU(), twin, nn.Flatten(), nn.Linear(100, 4))
    masks = prune.snip(module, *batch(4), 0.5)
    assert list(masks) == ["0", "4"]
    assert masks["0"].sum() == 72


# Refusals


@every
def test_a_module_without_layers_to_prune_is_refused(source):
    for module, match in (
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), "no convolution and no matrix"),
        (nn.Sequential(nn.Flatten(), nn.Linear(75, 4)), "no layer to prune.*the classifier"),
        (nn.Sequential(nn.LazyConv2d(4, 3), nn.Linear(75, 4)), "layer '0' has no weights yet"),
    ):
        with pytest.raises(MaskError, match=match):
            source(module)
    with pytest.raises(TypeError, match=r"expected a torch.nn.Module, got dict"):
        source({})


@exact
@pytest.mark.parametrize(
    ("density", "error", "match"),
    [
        (0, MaskError, "density 0 keeps none of the 678 weights"),
        (0.0005, MaskError, "density 0.0005 keeps none"),
        (1.5, MaskError, "between 0 and 1, got 1.5"),
        (float("nan"), MaskError, "between 0 and 1, got nan"),
        ("1", TypeError, "density must be a number, got str"),
    ],
)
def test_densities_that_cannot_be_reached_are_refused(source, density, error, match):
    with pytest.raises(error, match=match):
        source(residual(), density)


@every
def test_weights_that_are_not_finite_are_named(source):
    module = residual()
    with torch.no_grad():
        module.conv.weight[1, 2, 0, 1] = float("inf")
    with pytest.raises(MaskError, match=r"layer 'conv': weights must be finite, got inf at \(1, 2"):
        source(module)


@every
def test_weights_made_of_others_are_refused_by_name(source):
    module = residual()
    nn.utils.parametrizations.weight_norm(module.conv)
    with pytest.raises(MaskError, match="layer 'conv': its weight is computed of other"):
        source(module)


@every
def test_an_emptied_layer_is_an_error_that_names_it_or_is_reported(source, caplog):
    module = residual()
    with torch.no_grad():
        module.conv.weight.zero_()
    with pytest.raises(MaskError, match=r"nothing is left of layer 'conv' \(of 576 weights\)"):
        source(module, 0.05)
    with caplog.at_level(logging.WARNING, "masktools.prune"):
        masks = source(module, 0.05, empty="report")
    assert not masks["conv"].any()
    assert "nothing is left of layer 'conv'" in caplog.text
    with pytest.raises(MaskError, match="empty must be one of refuse, report, got 'never'"):
        source(module, empty="never")


@with_targets
@pytest.mark.parametrize(
    ("targets", "error", "match"),
    [
        (np.r_[Y[:-1], 4], MaskError, "targets must be classes from 0 to 3, got 4"),
        (np.r_[-1, Y[1:]], MaskError, "targets must be classes from 0 to 3, got -1"),
        (Y[:-1], MaskError, r"there are \d+ inputs, but targets of shape"),
        (Y.astype(np.float32), TypeError, "needs classes as integers, got torch.float32"),
        (Y[:, None], MaskError, r"expected targets of shape \(\d+,\), got \(\d+, 1\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused(source, targets, error, match, monkeypatch):
    monkeypatch.setitem(globals(), "Y", targets)
    with pytest.raises(error, match=match):
        source(residual())


@trained
def test_batches_that_are_none_are_refused(source, monkeypatch):
    for given, error, match in (
        ([], MaskError, "there are no batches"),
        (iter([(X, Y)]), TypeError, "batches can be gone through only once"),
        (((X, Y) for _ in range(3)), TypeError, "only once.*give a list or a DataLoader"),
        (5, TypeError, "batches must hold pairs of inputs and targets, got int"),
        ([X], TypeError, "batch 1: expected a pair of inputs and targets"),
        ([(X, Y), (X, Y[:3])], MaskError, "batch 2: there are 12 inputs, but targets of shape"),
    ):
        monkeypatch.setitem(globals(), "batches", lambda given=given: given)
        with pytest.raises(error, match=match):
            source(residual())


@trained
def test_a_data_loader_shuffles_by_the_seed(source, monkeypatch):
    data = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    loader = torch.utils.data.DataLoader(data, batch_size=5, shuffle=True)
    monkeypatch.setitem(globals(), "batches", lambda: loader)
    first, again = source(residual()), source(residual())
    assert all(np.array_equal(first[name], again[name]) for name in first)


@with_targets
def test_losses_that_are_no_finite_number_are_refused(source):
    for loss, error, match in (
        (lambda out, _: out.sum() * float("inf"), MaskError, "the loss is -?(inf|nan)"),
        (lambda out, _: out.mean(1), TypeError, r"a tensor of one number, got \(\d+,\)"),
        (lambda out, _: 1.0, TypeError, "a tensor of one number, got float"),
    ):
        with pytest.raises(error, match=match):
            source(residual(), loss=loss)


@at_start
def test_a_loss_without_the_outputs_is_refused(source):
    with pytest.raises(MaskError, match="the loss depends on none of the weights"):
        source(residual(), loss=lambda *_: torch.ones(()))


@at_start
def test_a_layer_outside_the_outputs_is_named(source):
    module = residual()
    module.unused = nn.Conv2d(8, 8, 1)
    module.fc = nn.Linear(4, 4)  # so that `head` is not the last matrix any more
    with pytest.raises(MaskError, match="layer 'unused': the outputs do not depend on its weights"):
        source(module)
    masks = source(module, skip=["unused"])
    assert masks["unused"].all()


def test_without_pytorch_it_is_said_what_to_install(monkeypatch):
    monkeypatch.delitem(vars(prune), "snip", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"prune.snip needs: pip install 'masktools\[torch\]'"):
        _ = prune.snip
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = prune.nothing
