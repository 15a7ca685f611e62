"""Tools whose files are more than one state dict: checkpoints and dicts of masks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from masktools.importers.contents import (
    Array,
    Contents,
    State,
    join,
    strip_prefixes,
    suffixed,
)
from masktools.importers.parameters import layer_of
from masktools.importers.tool import (
    Found,
    Names,
    Tool,
    bias_notes,
    by_zeros,
    weights_of,
    zero_or_one,
)
from masktools.importers.tools.buffers import (
    is_nni_wrapped,
    is_pruned,
    read_nni_wrapped,
    read_pruned,
)
from masktools.importers.unwrap import is_layerwise

_ORIGINAL = re.compile(r"(?:(.*)\.)?parametrizations\.(\w+)\.original")


def _arrays(contents: Contents, value: object) -> State:
    if not isinstance(value, Mapping):
        return {}
    named = {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, np.ndarray)}
    return strip_prefixes(contents.path, named)[0]


def _at(tree: object, *keys: str) -> Any:  # noqa: ANN401 - whatever the file holds
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


# Structure-LTH --------------------------------------------------------------------------------


def _read_structure_lth(contents: Contents, _: Names) -> Found:
    start = _arrays(contents, _at(contents.tree, "init_weight"))
    rewound = {**dict(suffixed(start, "weight")), **dict(suffixed(start, "weight_orig"))}
    if is_pruned(contents.state):
        found = read_pruned(contents.state)
    else:
        found = by_zeros(
            {n: w for n, w in suffixed(contents.state, "weight") if w.ndim > 1}, notes=[]
        )
    layers = found.masks or found.weights
    kept = {layer: rewound[layer] for layer in layers if layer in rewound}
    notes = [*found.notes, "rewound weights were taken from 'init_weight'"]
    return Found(found.masks, found.weights, kept, notes, found.dense)


# torch.ao.pruning -----------------------------------------------------------------------------


def _sparsifier_masks(contents: Contents) -> State:
    """Return the masks of a sparsifier's state, wherever the file keeps it."""
    roots = [contents.tree]
    if isinstance(contents.tree, Mapping):
        roots += contents.tree.values()
    for root in roots:
        state = _at(root, "state")
        if isinstance(state, Mapping):
            masks = {k: _at(v, "mask") for k, v in state.items() if isinstance(k, str)}
            arrays = _arrays(contents, masks)
            if arrays:
                return arrays
    return {}


def _originals(state: State) -> State:
    """Return the parameters that a parametrization stands before, by name."""
    matched = ((_ORIGINAL.fullmatch(name), array) for name, array in state.items())
    return {join(m[1] or "", m[2]): array for m, array in matched if m is not None}


def _read_torch_ao(contents: Contents, _: Names) -> Found:
    masks = _sparsifier_masks(contents)
    held = {**contents.state, **_originals(contents.state)}
    weights = {layer_of(name): array for name, array in held.items() if name in masks}
    if not masks:
        return Found(
            weights={layer_of(n): array for n, array in _originals(contents.state).items()},
            dense="a torch.ao.pruning model without its sparsifier: the model's state dict leaves "
            "the masks out and its weights are dense; save sparsifier.state_dict() beside it, as "
            "in {'model': model.state_dict(), 'sparsifier': sparsifier.state_dict()}, or call "
            "sparsifier.squash_mask() before saving",
            applied=False,
        )
    return Found({layer_of(name): mask for name, mask in masks.items()}, weights)


# NNI ------------------------------------------------------------------------------------------


def _read_nni(contents: Contents, _: Names) -> Found:
    if is_nni_wrapped(contents.state):
        return read_nni_wrapped(contents.state)
    tree, notes = strip_prefixes(contents.path, contents.tree)
    masks = {
        name: targets["weight"]
        for name, targets in tree.items()
        if isinstance(targets.get("weight"), np.ndarray)
    }
    others = {target for targets in tree.values() for target in targets} - {"weight"}
    if others:
        notes.append(f"masks of {', '.join(sorted(map(str, others)))} were left out")
    return Found(masks, notes=notes)


# OpenLTH --------------------------------------------------------------------------------------


def _lth_buffer(name: str) -> str | None:
    if not name.startswith("mask_") or not name.endswith("___weight"):
        return None
    return name.removeprefix("mask_").removesuffix("___weight").replace("___", ".")


def _is_openlth(contents: Contents) -> bool:
    state = contents.state
    if any(_lth_buffer(name) is not None for name in state):
        return True
    return (
        contents.container == "torch"
        and bool(state)
        and all(
            name.endswith(".weight") and array.dtype == np.int32 and zero_or_one(array)
            for name, array in state.items()
        )
    )


def _read_openlth(contents: Contents, _: Names) -> Found:
    state = contents.state
    buffers = {layer: a for name, a in state.items() if (layer := _lth_buffer(name)) is not None}
    if not buffers:
        return Found(dict(suffixed(state, "weight")))
    inner = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    return Found(buffers, weights_of(inner, buffers), notes=["the prefix 'model.' was stripped"])


# Distiller ------------------------------------------------------------------------------------


def _read_distiller(contents: Contents, _: Names) -> Found:
    stored = _at(contents.tree, "compression_sched", "masks_dict")
    texts = {k: v for k, v in stored.items() if isinstance(k, str)}
    named, notes = strip_prefixes(contents.path, texts)
    masks: dict[str, Array] = {}
    full = []
    weights: dict[str, Array] = {}
    biases = 0
    for name, mask in named.items():
        layer, weight = layer_of(name), contents.state.get(name)
        if name.rpartition(".")[2] == "bias":
            biases += mask is not None
            continue
        if isinstance(mask, np.ndarray):
            masks[layer] = mask
        elif mask is None and weight is not None and weight.ndim > 1:
            masks[layer] = weight == weight
            full.append(layer)
        if weight is not None and layer in masks:
            weights[layer] = weight
    if full:
        notes.append(f"the mask of {', '.join(full)} is None: all of it is kept")
    return Found(masks, weights, notes=notes + bias_notes(biases))


TOOLS = (
    Tool(
        "structure-lth",
        "'state_dict' beside a state dict 'init_weight'",
        lambda c: isinstance(_at(c.tree, "init_weight"), Mapping) and "state_dict" in c.tree,
        _read_structure_lth,
        whole=True,
    ),
    Tool(
        "torch-ao",
        "L.parametrizations.weight.original, or a sparsifier's 'state' of "
        "{parameter: {'mask': ...}}",
        lambda c: bool(_originals(c.state)) or bool(_sparsifier_masks(c)),
        _read_torch_ao,
        whole=True,
    ),
    Tool(
        "nni",
        "{layer: {'weight': mask, ...}}, or L._nni_wrapper.weight_mask",
        lambda c: is_nni_wrapped(c.state) or (not c.state and is_layerwise(c.tree)),
        _read_nni,
        whole=True,
    ),
    Tool(
        "openlth",
        "int32 masks named by parameter, or buffers mask_L___weight",
        _is_openlth,
        _read_openlth,
    ),
    Tool(
        "distiller",
        "'compression_sched' with 'masks_dict'",
        lambda c: isinstance(_at(c.tree, "compression_sched", "masks_dict"), Mapping),
        _read_distiller,
        whole=True,
    ),
)
