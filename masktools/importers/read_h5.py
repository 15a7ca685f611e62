"""Read the datasets of an HDF5 file, as Keras writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masktools.errors import FormatError
from masktools.importers.contents import Unreadable, check_room, count

MODEL_CONFIG = "@model_config"


def read_h5(path: Path) -> dict[str, Any]:
    """Return the datasets by path, below ``model_weights`` where there is one.

    A whole Keras model also has its configuration, under `MODEL_CONFIG`: a dict of the layers'
    class names. Links are not followed, and data that lie in other files are refused.
    """
    try:
        import h5py
    except ImportError as error:
        raise FormatError(
            f"{path}: reading HDF5 needs h5py: pip install 'masktools[keras]'"
        ) from error
    with h5py.File(path, "r") as file:
        tree = _datasets(path, file, h5py.Dataset)
        config = file.attrs.get("model_config")
    if config is not None:
        tree[MODEL_CONFIG] = _classes(json.loads(config))
    return tree


def _datasets(path: Path, file: Any, kind: type) -> dict[str, Any]:  # noqa: ANN401 - h5py is untyped
    root = file.get("model_weights", file)
    found: list[tuple[str, Any]] = []
    # visititems follows hard links alone, each object once.
    root.visititems(
        lambda name, item: found.append((name, item)) if isinstance(item, kind) else None
    )
    for name, data in found:
        if data.is_virtual or data.external:
            raise FormatError(f"{path}: dataset {name!r} keeps its data in other files")
    # Chunks that were never written take no room in the file, whatever the shape claims.
    check_room(path, sum(count(data.shape or ()) * data.dtype.itemsize for _, data in found))
    return {
        name: data[()] if data.dtype.kind in "biuf" and data.shape else Unreadable(f"{data.dtype}")
        for name, data in found
    }


def _classes(config: object) -> dict[str, str]:
    """Return the class of each layer, pruning wrappers taken off."""
    classes: dict[str, str] = {}
    open_: list[Any] = [config]
    while open_:
        item = open_.pop()
        if isinstance(item, list):
            open_ += item
        elif isinstance(item, Mapping):
            inner = item.get("config")
            if isinstance(inner, Mapping) and isinstance(inner.get("name"), str):
                classes[inner["name"]] = str(item.get("class_name"))
            open_ += item.values()
    return classes
