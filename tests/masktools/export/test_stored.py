"""What is stored of each layer: in blocks, as residual, or dense."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import zoo
from small_network import CONV, IMAGES, LAST, SIZE, close, expected, mask, run

from masktools import BlockLayout, DenseBlock, MaskError
from masktools.checkpoint import read
from masktools.export import from_onnx
from masktools.export.exporting import prepare
from masktools.network import shapes
from masktools.network.shapes import infer_shapes


def blocks(shape, *parts):
    return BlockLayout(shape, [DenseBlock(rows, columns) for rows, columns in parts])


def test_a_network_without_zeros_is_stored_densely(net, module, tmp_path):
    from_onnx(net, tmp_path / "out.safetensors")
    written = read(tmp_path / "out.safetensors")
    assert not written.sparse
    assert set(written.graph.constants) >= {"stem.weight", "conv.0.weight", "head.bias"}
    close(run(tmp_path / "out.safetensors", IMAGES), expected(module, IMAGES))


def test_zeros_of_the_weights_are_masks_where_layers_have_no_role(net, module, tmp_path):
    keep = np.ones(CONV, bool)
    keep[:8, ::2] = False
    keep[8:, 1::2] = False
    with torch.no_grad():
        module.conv[0].weight *= torch.from_numpy(keep)
        module.stem.weight[:, 0, 0] = 0
        module.head.weight[::2, ::3] = 0
    onnx.save(zoo.to_onnx(module, SIZE), net)
    from_onnx(net, tmp_path / "out.safetensors")
    written = read(tmp_path / "out.safetensors")
    assert list(written.sparse) == ["conv.0"]
    assert [b.size for b in written.sparse["conv.0"].layout.blocks] == [8 * 36] * 2
    close(run(tmp_path / "out.safetensors", IMAGES), expected(module, IMAGES))


def told(net, **how):
    """Return which layers are sparse, and what was said."""
    notes = []
    return list(prepare(net, say=notes.append, **how)[0].sparse), notes


def test_layers_with_a_role_are_sparse_where_they_gain_or_are_named(module):
    with torch.no_grad():
        module.stem.weight[:, 1:] = 0
        module.stem.weight[:, 0, 1:] = 0
        module.head.weight[::2, ::3] = 0
        module.head.weight[1::2, 1::3] = 0
    net = zoo.to_onnx(module, SIZE)
    share = float((module.stem.weight == 0).float().mean())
    assert share > 0.75
    sparse, notes = told(net)
    assert sparse == ["stem"]
    (note,) = notes
    assert note.startswith("layer 'head': the classifier stays dense, though 33.")
    assert note.endswith("include=['head'] (--include head) stores it sparse")
    assert told(net, include=["head"], residual="keep") == (["stem", "head"], [])
    with torch.no_grad():
        module.stem.weight[::2, 0, 0, 0] = 0  # Every second row lacks a column.
        module.stem.weight[1::4, 0, 0, 1] = 0
    net = zoo.to_onnx(module, SIZE)
    for residual in ("error", "drop", "keep"):  # Rows of their own gain nothing.
        assert told(net, residual=residual)[0] == []
    assert told(net, residual="keep", include=["stem"])[0] == ["stem"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"include": ["haed"]}, "include: there is no layer 'haed'; there are 'stem'"),
        ({"include": ["head"], "masks": {}}, "masks and layouts name the layers themselves"),
        ({"include": ["head"], "layouts": {}}, "masks and layouts name the layers themselves"),
        ({"include": "head"}, "include must hold layer names, got the one name 'head'"),
        ({"skip": ["haed"]}, "skip: there is no layer 'haed'; there are 'stem'"),
        ({"skip": ["head"], "include": ["head"]}, "layer 'head' is in both skip and include"),
        (
            {"skip": ["haed"], "masks": {}},
            "skip: there is no layer 'haed'; there are none",
        ),
    ],
)
def test_layers_to_include_that_do_not_fit_are_refused(net, how, message):
    with pytest.raises((MaskError, TypeError), match=message):
        prepare(net, **how)


def test_weights_that_a_mask_prunes_and_the_network_does_not_are_said(module, caplog):
    """As where the network standardises its weights: their zeros are numbers then."""
    keep = np.ones(CONV, bool)
    keep[:8, ::2] = False
    net = zoo.to_onnx(module, SIZE)
    prepare(net, masks={"conv.0": keep}, residual="keep")
    assert f"the masks prune {np.count_nonzero(~keep)} weights that are not zero" in caplog.text
    assert "'conv.0'" in caplog.text
    caplog.clear()
    with torch.no_grad():
        module.conv[0].weight *= torch.from_numpy(keep)
    prepare(zoo.to_onnx(module, SIZE), masks={"conv.0": keep}, residual="keep")
    assert not caplog.text


def test_masks_of_parts_that_are_not_in_the_file_are_passed_over_when_named(net, module):
    masks = {"conv.0": mask(CONV), "aux.conv": np.ones((4, 3, 3, 3), bool)}
    with pytest.raises(
        MaskError, match=r"mask 'aux.conv' matches no layer.*--skip\) passes them over"
    ):
        prepare(net, masks=masks, residual="keep")
    sparse, _ = told(net, masks=masks, residual="keep", skip=["aux.conv"])
    assert sparse == ["conv.0"]
    assert told(net, masks=masks, residual="keep", skip=["aux.conv", "conv.0"])[0] == []
    with torch.no_grad():
        module.conv[0].weight[:8, ::2] = 0
        module.conv[0].weight[8:, 1::2] = 0
    zeros = zoo.to_onnx(module, SIZE)
    assert told(zeros)[0] == ["conv.0"]
    assert told(zeros, skip=["conv.0"])[0] == []


def test_a_zero_by_chance_leaves_a_layer_dense(module):
    with torch.no_grad():
        module.conv[0].weight[3, 3, 1, 1] = 0
    assert not prepare(zoo.to_onnx(module, SIZE))[0].sparse


def test_rows_that_died_in_training_leave_a_layer_dense(net, module, tmp_path):
    with torch.no_grad():
        weight = module.conv[0].weight
        weight[3] = 0
        weight[3, 2, 1, 1] = 1e-3
    model = zoo.to_onnx(module, SIZE)
    assert not prepare(model)[0].sparse  # One row of 16: a density of 0.94 gains nothing.
    found = prepare(model, residual="keep")[0].sparse["conv.0"]
    assert found.residual.values.size == 1
    with torch.no_grad():
        weight[:4] = 0
        for row in range(4):
            weight[row, row, 1, 1] = 1e-3
    with pytest.raises(MaskError, match=r"4 kept weights lie outside.*--residual keep"):
        prepare(zoo.to_onnx(module, SIZE))


def test_weights_that_half_precision_loses_break_no_block(net, module, tmp_path, caplog):
    keep = np.zeros(CONV, bool)
    keep[::2, :4] = keep[1::2, 4:] = True
    with torch.no_grad():
        weight = module.conv[0].weight
        weight[[0, 3, 5], [1, 6, 5], 1, 2] = 1e-9
        weight.copy_((weight * torch.from_numpy(keep)).half().float())
    lost = int((keep & (weight.detach().numpy() == 0)).sum())
    assert lost == 3
    onnx.save(zoo.to_onnx(module, SIZE), net)
    from_onnx(net, tmp_path / "out.safetensors")
    layout = read(tmp_path / "out.safetensors").sparse["conv.0"].layout
    assert np.array_equal(layout.to_mask(), keep)
    assert "layer 'conv.0': 3 weights that are zero lie inside its blocks" in caplog.text
    close(run(tmp_path / "out.safetensors", IMAGES), expected(module, IMAGES))


def test_named_layers_are_stored_in_blocks_whatever_their_role(net, module):
    masks = {"stem": np.ones((8, 3, 3, 3), bool), "head": np.ones((5, 12), bool)}
    masks["stem"][::2, 0] = masks["stem"][1::2, 1] = False
    masks["head"][:4, ::2] = masks["head"][4:, 1::2] = False
    written, kept = prepare(net, masks=masks, residual="drop")
    assert sorted(written.sparse) == ["head", "stem"]
    assert (kept["head"] == (masks["head"] & [[True]] * 4 + [[False]])).all()


def test_rows_that_keep_all_columns_are_a_block_however_few(net, module, tmp_path):
    keep = np.zeros(LAST, bool)
    keep[[2, 9]] = True
    from_onnx(net, tmp_path / "out.safetensors", masks={"last.0": keep})
    written = read(tmp_path / "out.safetensors")
    assert written.graph.constants["head.weight"].shape == (5, 2)  # No padding: into its bias.
    assert written.graph.constants["last.0.weight"].shape == (2, 16, 3, 3)
    close(run(tmp_path / "out.safetensors", IMAGES), expected(module, IMAGES, **{"last.0": keep}))


def test_layouts_fix_the_blocks(net, module, tmp_path):
    layout = blocks(CONV, (range(8), range(0, 72, 2)), (range(8, 16), range(20)))
    path = tmp_path / "out.safetensors"
    from_onnx(net, path, layouts={"conv.0": layout}, masks={"conv.0": layout.to_mask()})
    assert read(path).sparse["conv.0"].layout.blocks == layout.blocks
    close(run(path, IMAGES), expected(module, IMAGES, **{"conv.0": layout.to_mask()}))


def test_names_rename_layers(net, tmp_path):
    path = tmp_path / "out.safetensors"
    keep = np.ones(CONV, bool)
    keep[::2, ::2] = keep[1::2, 1::2] = False
    from_onnx(net, path, masks={"body": keep}, names={"conv.0": "body"})
    assert list(read(path).sparse) == ["body"]
    with pytest.raises(MaskError, match="names: 'nobody' is no layer of the network, which has st"):
        from_onnx(net, path, names={"nobody": "a"})
    with pytest.raises(MaskError, match="two layers would be called 'stem'"):
        from_onnx(net, path, names={"conv.0": "stem"})


def test_the_file_is_the_same_every_time_and_names_its_source(net, tmp_path):
    import hashlib

    for name in ("a", "b"):
        from_onnx(net, tmp_path / name, masks={"conv.0": mask(CONV)}, residual="keep")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    source = read(tmp_path / "a").source
    assert source == "sha256:" + hashlib.sha256(net.read_bytes()).hexdigest()


@pytest.mark.parametrize("names", [None, {"conv.0": "body"}])
def test_shapes_are_worked_out_once(net, tmp_path, monkeypatch, names):
    asked = []

    def infer(graph, *given):
        asked.append(graph)
        return infer_shapes(graph, *given)

    monkeypatch.setattr(shapes, "infer_shapes", infer)
    keep = mask(CONV)
    keep[:6] = keep[0]  # Rows that are left out make constants, which are folded and cut.
    layer = (names or {"conv.0": "conv.0"})["conv.0"]
    from_onnx(net, tmp_path / "out", masks={layer: keep}, residual="drop", names=names)
    assert len(asked) == 1


def test_the_file_is_as_large_as_values_and_indices(net, tmp_path):
    keep = np.zeros(CONV, bool)
    keep[:8, :4], keep[8:, 2:] = True, True
    from_onnx(zoo.to_onnx(zoo.make("resnet18-cifar"), 8), tmp_path / "dense")
    module = zoo.make("resnet18-cifar")
    needed = 4 * sum(p.numel() for n, p in module.named_parameters() if "0.weight" in n)
    assert (tmp_path / "dense").stat().st_size < 1.03 * needed


def test_a_residual_is_refused_and_counted(net, tmp_path):
    path = tmp_path / "out.safetensors"
    masks = {"conv.0": mask(CONV), "last.0": mask(LAST)}
    with pytest.raises(MaskError) as caught:
        from_onnx(net, path, masks=masks)
    total = sum(m.sum() for m in masks.values())
    assert f"{total} kept weights lie outside the dense blocks" in str(caught.value)
    assert f"'conv.0' {masks['conv.0'].sum()} (100.0% of its saliency)" in str(caught.value)
    assert not path.exists()


@pytest.mark.parametrize("policy", ["keep", "drop"])
def test_a_residual_is_kept_or_dropped(net, module, tmp_path, policy):
    path = tmp_path / "out.safetensors"
    keep = mask(CONV)
    keep[:6] = keep[0]  # One block, the rest beside it.
    from_onnx(net, path, masks={"conv.0": keep}, residual=policy)
    if policy == "drop":
        keep[6:] = False
    else:
        assert read(path).sparse["conv.0"].residual.values.size == keep[6:].sum()
    close(run(path, IMAGES), expected(module, IMAGES, **{"conv.0": keep}))
