"""Networks with transposed convolutions: converted beside them."""

import numpy as np
import pytest
import torch
import zoo
from torch import nn

import masktools
from masktools.errors import MaskError
from masktools.network.onnx.reader import read_onnx


@pytest.fixture
def network():
    """An ONNX network whose second layer is a transposed convolution, and masks of its layers."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ConvTranspose2d(16, 16, 2, 2), nn.Conv2d(16, 16, 3)
    ).eval()
    rng = np.random.default_rng(0)
    masks = {name: rng.random(tuple(module[int(name)].weight.shape)) < 0.5 for name in "12"}
    return read_onnx(zoo.to_onnx(module, 8)), masks


def test_a_transposed_convolution_is_skipped_by_its_name(network):
    graph, masks = network
    result = masktools.convert(masks, method="regroup", graph=graph, skip=["1"], progress=False)
    assert list(result.masks) == ["2"]
    assert result.report.options["skip"] == ["1"]


def test_one_that_is_not_skipped_is_told(network):
    graph, masks = network
    with pytest.raises(MaskError, match=r"layer '1' is a transposed .* or name it in skip="):
        masktools.convert(masks, method="regroup", graph=graph, progress=False)


def test_other_names_in_skip_must_be_there(network):
    graph, masks = network
    with pytest.raises(MaskError, match="skip: there is no layer 'no'"):
        masktools.convert(masks, method="regroup", graph=graph, skip=["1", "no"], progress=False)
