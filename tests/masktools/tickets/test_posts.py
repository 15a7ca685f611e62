"""Posts: what `convert` makes of the masks, which layers, options that are checked at once."""

from __future__ import annotations

import numpy as np
import pytest
from small_training import LAYERS, initial, same

from masktools import BlockLayout, MaskError, convert
from masktools.tickets import posts, sources


@pytest.fixture
def masks():
    state = initial()
    full = {layer: np.ones(state[f"{layer}.weight"].shape, bool) for layer in LAYERS}
    return sources.magnitude()(state, full, 0.3, 0)


def of_convert(masks, **options):
    weights = {layer: initial()[f"{layer}.weight"] for layer in masks}
    return convert(masks, weights, include=LAYERS, progress=False, **options).masks


def test_refill_is_that_of_convert_in_every_layer(masks):
    found = posts.refill()(masks, initial())
    assert same(found, of_convert(masks, method="refill"))
    for layer, mask in found.items():
        rows = mask.reshape(len(mask), -1)
        assert (rows.all(axis=1) | ~rows.any(axis=1)).all()
        assert rows.any(axis=1).sum() == np.ceil(masks[layer].mean() * len(mask))


def test_refill_plus_brings_rows_back(masks):
    found = posts.refill(0.2)(masks, initial())
    assert same(found, of_convert(masks, method="refill-plus", extra=0.2))
    plain = posts.refill()(masks, initial())
    assert all((plain[layer] <= found[layer]).all() for layer in LAYERS)
    assert sum(m.sum() for m in found.values()) > sum(m.sum() for m in plain.values())


def test_regroup_is_that_of_convert_and_stays_within_each_mask(masks):
    found = posts.regroup(group_rows=4, partitioner="spectral")(masks, initial())
    wanted = of_convert(masks, method="regroup", group_rows=4, partitioner="spectral")
    assert same(found, wanted)
    for layer, mask in found.items():
        assert 0 < mask.sum() <= masks[layer].sum()
        assert len(BlockLayout.from_mask(mask).blocks) <= len(mask) // 4 + 1


def test_a_higher_density_is_shared_over_the_layers(masks):
    found = posts.regroup(density=0.5, group_rows=4, partitioner="spectral")(masks, initial())
    size = sum(mask.size for mask in masks.values())
    assert sum(int(m.sum()) for m in found.values()) / size == pytest.approx(0.5, abs=0.01)


def test_layers_to_skip_and_full_layers_stay_as_they_are(masks):
    masks["last"][...] = True
    found = posts.refill(skip=["stem"])(masks, initial())
    assert (found["stem"] == masks["stem"]).all()
    assert found["last"].all()
    assert not (found["conv"] == masks["conv"]).all()
    with pytest.raises(MaskError, match="skip: there is no layer 'nowhere'"):
        posts.refill(skip=["nowhere"])(masks, initial())


def test_masks_that_keep_all_stay(masks):
    full = {layer: np.ones_like(mask) for layer, mask in masks.items()}
    assert same(posts.regroup()(full, initial()), full)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: posts.refill(1.5), MaskError, "extra must be between 0 and 1, got 1.5"),
        (lambda: posts.refill(criterion="best"), MaskError, "criterion must be one of"),
        (lambda: posts.refill(by="multiplications"), TypeError, "needs a graph"),
        (lambda: posts.regroup(target="tpu"), MaskError, "target must be one of"),
        (lambda: posts.regroup(across="erk"), TypeError, "give a density"),
        (lambda: posts.regroup(group_rows=0), MaskError, "group_rows must be at least 1"),
        (lambda: posts.regroup(skip="stem"), TypeError, "got the one name 'stem'"),
    ],
)
def test_options_are_checked_before_anything_is_trained(make, error, message):
    with pytest.raises(error, match=message):
        make()
