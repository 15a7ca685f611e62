"""Write masks in the plain forms that every tool can read."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from masktools.checks import BoolArray, as_mask
from masktools.errors import FormatError, MaskError
from masktools.files import whole_file
from masktools.importers.contents import open_contents
from masktools.importers.tools.registry import choose

Masks = dict[str, BoolArray]


def save_masks(path: str | os.PathLike[str], masks: Mapping[str, ArrayLike]) -> None:
    """Write masks to one file; the same masks give the same bytes.

    Parameters
    ----------
    path : path-like
        By its ending: ``.safetensors`` and ``.npz`` hold a bool array per layer under the layer's
        name; ``.pt`` is the state dict of torch.nn.utils.prune, ``L.weight_mask`` and
        ``L.weight_orig`` in float32. Written beside and renamed, so that no half file is left.
    masks : mapping of str to array_like
        By layer, of any shape that `masktools.layout.as_mask` takes. Not changed.

    Raises
    ------
    FormatError
        If the ending is another one, or torch is needed and not installed.
    MaskError
        If there is no mask, one is no mask, or a name cannot be a layer's.
    TypeError
        If `masks` is no mapping, a name not a string, or a mask neither bool nor numbers.

    Notes
    -----
    Masks have no weights. In a ``.pt`` file `L.weight_orig` is therefore the mask itself: take
    the masks out of it, and leave your network's own weights where they are.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> save_masks(pathlib.Path(tempfile.mkdtemp()) / "m.safetensors", {"fc": [[1, 0], [0, 1]]})
    """
    path = Path(path)
    writers: dict[str, Callable[[Masks], bytes]] = {
        ".safetensors": _safetensors,
        ".npz": _npz,
        ".pt": _pt,
    }
    if path.suffix not in writers:
        raise FormatError(f"{path}: masks are saved as {', '.join(writers)}")
    checked = _checked(masks)
    _check_names(path, checked)
    content = writers[path.suffix](checked)
    with whole_file(path) as beside:
        beside.write_bytes(content)


def _checked(masks: Mapping[str, ArrayLike]) -> Masks:
    if not isinstance(masks, Mapping):
        raise TypeError(f"expected masks as {{layer: array}}, got {type(masks).__name__}")
    if not masks:
        raise MaskError("there are no masks to save")
    checked: Masks = {}
    for name in masks:
        if not isinstance(name, str):
            raise TypeError(f"a layer's name must be a string, got {type(name).__name__}")
    for name, mask in sorted(masks.items()):
        layer = name.removesuffix(".weight")
        if (
            not layer
            or layer.endswith(".weight")
            or not layer.isprintable()
            or "\\" in layer
            or layer in checked
        ):
            raise MaskError(f"{name!r} cannot be a layer's name, or names a layer twice")
        try:
            checked[layer] = as_mask(mask)
        except (TypeError, MaskError) as error:
            raise type(error)(f"layer {name!r}: {error}") from error
    return checked


def _check_names(path: Path, masks: Masks) -> None:
    """Refuse names that a reader would take for a wrapper's prefix or for a tool's keys."""
    leaf = ".weight_mask" if path.suffix == ".pt" else ""
    tiny = {f"{layer}{leaf}": np.ones((1, 1), np.bool_) for layer in masks}
    try:
        contents = open_contents(path, path.suffix.removeprefix("."), tiny)
        read = choose(contents, None).read(contents, None).masks
    except FormatError as error:
        raise MaskError(f"{path}: with these names no file could be read back: {error}") from error
    for layer in masks:
        if layer not in read:
            raise MaskError(f"{path}: layer name {layer!r} would be read back as another one")


def _safetensors(masks: Masks) -> bytes:
    from safetensors.numpy import save

    return save(dict(masks))


def _npz(masks: Masks) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, mask in masks.items():
            # A fixed date: an archive's bytes must not depend on when it was written.
            entry = zipfile.ZipInfo(f"{name}.npy")
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, mask, allow_pickle=False)
    return buffer.getvalue()


def _pt(masks: Masks) -> bytes:
    try:
        import torch
    except ImportError as error:
        raise FormatError("saving a .pt needs torch: pip install 'masktools[torch]'") from error
    state = {}
    for layer, mask in masks.items():
        kept = torch.from_numpy(mask.astype(np.float32))
        state[f"{layer}.weight_orig"] = kept
        state[f"{layer}.weight_mask"] = kept.clone()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()
