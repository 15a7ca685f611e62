"""Read the datasets of an HDF5 file, as Keras writes them."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masktools import limits
from masktools.errors import FormatError
from masktools.importers.contents import Unreadable, check_room, count

MODEL_CONFIG = "@model_config"
# In a .keras archive, beside the configuration.
KERAS_WEIGHTS = "model.weights.h5"

# HDF5's numbers of its filters, and the bytes of a checksum.
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3
_CHECKSUM = 4


def read_h5(path: Path) -> dict[str, Any]:
    """Return the datasets by path, below ``model_weights`` where there is one.

    A whole Keras model also has its configuration, under `MODEL_CONFIG`: a dict of the layers'
    class names. Links are not followed, and data that lie in other files are refused.
    """
    return _read(path, path)


def read_keras(path: Path) -> dict[str, Any]:
    """Return the datasets of the weights in a ``.keras`` archive, as `read_h5` does."""
    with zipfile.ZipFile(path) as archive:
        check_room(path, archive.getinfo(KERAS_WEIGHTS).file_size)
        return _read(path, io.BytesIO(archive.read(KERAS_WEIGHTS)))


def _read(path: Path, source: Path | io.BytesIO) -> dict[str, Any]:
    try:
        import h5py
    except ImportError as error:
        raise FormatError(
            f"{path}: reading HDF5 needs h5py: pip install 'masktools[keras]'"
        ) from error
    with h5py.File(source, "r") as file:
        tree = _arrays(path, _datasets(path, file))
        config = file.attrs.get("model_config")
    if config is not None:
        tree[MODEL_CONFIG] = _classes(json.loads(config))
    return tree


def _datasets(path: Path, file: Any) -> dict[str, Any]:  # noqa: ANN401 - h5py is untyped
    """Return the datasets below the root by name, each once.

    By way of hard links alone, which stay inside the file, and with a stack of its own: h5py's
    walk recurses in C.
    """
    import h5py

    root = file
    if "model_weights" in file.keys():  # noqa: SIM118 - `in file` would follow a link
        if not _is_inside(file, "model_weights"):
            raise FormatError(f"{path}: 'model_weights' is a link, and links are not followed")
        root = file["model_weights"]
    found: dict[str, Any] = {}
    seen: set[int] = set()
    open_ = [("", root, 0)]
    while open_:
        name, item, depth = open_.pop()
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            continue
        seen.add(address)
        if len(seen) > limits.HDF5_OBJECTS or depth > limits.HDF5_DEPTH:
            raise FormatError(
                f"{path}: more than {limits.HDF5_OBJECTS} objects, or groups nested more than "
                f"{limits.HDF5_DEPTH} deep"
            )
        if isinstance(item, h5py.Group):
            inner = [key for key in item if _is_inside(item, key)]
            open_ += [
                (f"{name}/{key}" if name else key, item[key], depth + 1) for key in reversed(inner)
            ]
        elif isinstance(item, h5py.Dataset):
            found[name] = item
    return found


def _is_inside(group: Any, key: str) -> bool:  # noqa: ANN401
    import h5py

    return isinstance(group.get(key, getlink=True), h5py.HardLink)


def _arrays(path: Path, datasets: Mapping[str, Any]) -> dict[str, Any]:
    for name, data in datasets.items():
        if data.is_virtual or data.external:
            raise FormatError(f"{path}: dataset {name!r} keeps its data in other files")
    # Chunks that were never written take no room in the file, whatever the shape claims.
    claimed = (count(data.shape or ()) * data.dtype.itemsize for data in datasets.values())
    check_room(path, sum(claimed))
    read: dict[str, Any] = {}
    for name, data in datasets.items():
        if data.dtype.kind in "biuf" and data.shape:
            _check_chunks(path, name, data)
            read[name] = data[()]
        else:
            read[name] = Unreadable(f"{data.dtype}")
    return read


def _check_chunks(path: Path, name: str, data: Any) -> None:  # noqa: ANN401
    """Refuse chunks that unpack to more than they should: the C library believes the stream."""
    pipeline = data.id.get_create_plist()
    filters = [pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters())]
    if not set(filters) <= {_DEFLATE, _SHUFFLE, _FLETCHER32} or filters.count(_DEFLATE) > 1:
        raise FormatError(f"{path}: dataset {name!r}: filters {filters}; gzip and shuffle are read")
    if _DEFLATE not in filters:
        return
    # A chunk is a whole one at the border too, and a checksum may be packed with it.
    whole = count(data.chunks) * data.dtype.itemsize + _CHECKSUM * filters.count(_FLETCHER32)
    position = filters.index(_DEFLATE)
    for number in range(data.id.get_num_chunks()):
        skipped, packed = data.id.read_direct_chunk(data.id.get_chunk_info(number).chunk_offset)
        if skipped >> position & 1:
            continue
        unpack = zlib.decompressobj()
        unpack.decompress(packed, whole)
        if not unpack.eof and unpack.decompress(unpack.unconsumed_tail, 1):
            raise FormatError(f"{path}: dataset {name!r}: a chunk unpacks to more than it holds")


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
