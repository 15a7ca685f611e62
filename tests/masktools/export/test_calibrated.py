"""Export with calibrated values, given or found on the way."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import small_network
import torch
from small_network import CONV, SIZE, mask

import masktools
import runtime
from masktools.errors import MaskError
from masktools.export import from_onnx, from_torch

run = partial(runtime.prepare, backend="reference")


@pytest.fixture(scope="module")
def images():
    rough = np.random.default_rng(0).standard_normal((64, 3, SIZE + 2, SIZE))
    return (rough[:, :, 2:] + rough[:, :, 1:-1] + rough[:, :, :-2]).astype(np.float32)


@pytest.fixture(scope="module")
def layouts():
    return {"conv.0": masktools.BlockLayout.from_mask(np.repeat(mask((4, *CONV[1:])), 4, axis=0))}


@pytest.mark.parametrize("residual", ["drop", "keep"])
def test_three_ways_to_calibrated_checkpoints_agree(residual, images, layouts, tmp_path):
    module = small_network.make()
    with torch.no_grad():
        module.conv[0].weight *= torch.from_numpy(mask(CONV, 0.9, seed=2))
    net = small_network.saved(module, tmp_path)
    found = masktools.calibrate(net, layouts, images, run=run, residual=residual)
    paths = [tmp_path / f"{way}.safetensors" for way in ("values", "onnx", "torch", "as it is")]
    shared = {"layouts": layouts, "residual": residual}
    chosen = {**layouts, **found.layouts}
    from_onnx(net, paths[0], values=found.values, layouts=chosen, residual=residual)
    from_onnx(net, paths[1], calibrate=images, run=run, **shared)
    from_torch(module, torch.zeros(1, 3, SIZE, SIZE), paths[2], calibrate=images, run=run, **shared)
    from_onnx(net, paths[3], **shared)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    made = [runtime.load(path, backend="reference")(images) for path in paths]
    scale = np.abs(made[0]).max()
    assert np.abs(made[0] - made[2]).max() < 1e-3 * scale
    if residual == "drop":  # Nothing is lost, and so nothing fitted, where all is kept.
        assert np.abs(made[0] - made[3]).max() > 1e-2 * scale
    source = small_network.expected(module, images)
    before, after = (np.square(y - source).mean() for y in (made[3], made[0]))
    assert after <= before or residual == "keep"


def test_values_of_other_columns_than_the_layouts_are_refused(images, layouts, tmp_path):
    net, out = small_network.saved(small_network.make(), tmp_path), tmp_path / "out.safetensors"
    found = masktools.calibrate(net, layouts, images, run=run)
    assert found.layouts
    with pytest.raises(MaskError, match=r"conv\.0.*lie outside of its blocks.*calibrated"):
        from_onnx(net, out, values=found.values, layouts=layouts, residual="drop")
    assert not out.exists()


def test_arguments_that_do_not_go_together_are_refused(images, layouts, tmp_path):
    net, out = small_network.saved(small_network.make(), tmp_path), tmp_path / "out.safetensors"
    with pytest.raises(TypeError, match="calibrate needs layouts"):
        from_onnx(net, out, calibrate=images, run=run)
    with pytest.raises(TypeError, match=r"run=runtime\.prepare"):
        from_onnx(net, out, calibrate=images, layouts=layouts)
    with pytest.raises(TypeError, match="values and calibrate exclude each other"):
        from_onnx(net, out, calibrate=images, layouts=layouts, run=run, values={})
    with pytest.raises(TypeError, match="values must be a mapping"):
        from_onnx(net, out, values=3)
    assert not out.exists()
