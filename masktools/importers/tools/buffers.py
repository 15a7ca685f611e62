"""Tools that keep a mask beside each weight in the state dict: they differ in the names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from masktools.importers.contents import Array, Contents, join, suffixed
from masktools.importers.tool import Found, Names, Tool, weights_of

_NNCF_HOOK = re.compile(r"(.*?)__nncf_hooks\.post_hooks\.(.+)__\d+\.\d+\.(binary_mask|mask)")
_NNI_WRAPPER = "_nni_wrapper"


def _bias_notes(state: Mapping[str, Array]) -> list[str]:
    biases = sum(1 for _ in suffixed(state, "bias_mask"))
    return [f"{biases} bias masks were left out: biases stay dense"] if biases else []


def is_pruned(state: Mapping[str, Array]) -> bool:
    """Tell whether torch.nn.utils.prune made these names, or masks alone under its name."""
    layers = [layer for layer, _ in suffixed(state, "weight_mask") if not _wrapped(layer)]
    return bool(layers) and not any(join(layer, "weight") in state for layer in layers)


def read_pruned(state: Mapping[str, Array]) -> Found:
    """Read ``L.weight_mask`` and, where it is there, ``L.weight_orig``."""
    masks = dict(suffixed(state, "weight_mask"))
    originals = dict(suffixed(state, "weight_orig"))
    weights = {layer: originals[layer] for layer in masks if layer in originals}
    return Found(masks, weights, notes=_bias_notes(state))


def _wrapped(layer: str) -> bool:
    return layer == _NNI_WRAPPER or layer.endswith(f".{_NNI_WRAPPER}")


def _is_shrinkbench(contents: Contents) -> bool:
    state = contents.state
    layers = [layer for layer, _ in suffixed(state, "weight_mask") if not _wrapped(layer)]
    return any(join(layer, "weight") in state for layer in layers)


def _read_shrinkbench(contents: Contents, _: Names) -> Found:
    masks = dict(suffixed(contents.state, "weight_mask"))
    return Found(masks, weights_of(contents.state, masks), notes=_bias_notes(contents.state))


def is_nni_wrapped(state: Mapping[str, Array]) -> bool:
    """Tell whether a model was saved while NNI's wrappers were still around its layers."""
    return any(_wrapped(layer) for layer, _ in suffixed(state, "weight_mask"))


def read_nni_wrapped(state: Mapping[str, Array]) -> Found:
    """Read ``L._nni_wrapper.weight_mask`` beside the unmasked ``L._nni_wrapper.weight``."""

    def inside(leaf: str) -> dict[str, Array]:
        return dict(suffixed(state, join(_NNI_WRAPPER, leaf)))

    masks, weights = inside("weight_mask"), inside("weight")
    notes = [f"the wrapper's name {_NNI_WRAPPER!r} was stripped"]
    return Found(masks, {n: w for n, w in weights.items() if n in masks}, notes=notes)


def _nncf_masks(state: Mapping[str, Array]) -> tuple[dict[str, Array], list[str]]:
    masks: dict[str, Array] = {}
    notes: list[str] = []
    for name, array in state.items():
        hook = _NNCF_HOOK.fullmatch(name)
        if hook is None:
            continue
        layer, dot, leaf = (hook[1] + hook[2].replace(":", ".")).rpartition(".")
        if leaf != "weight":
            notes.append(f"the mask of {layer + dot + leaf} was left out: it is no weight")
        elif hook[3] == "mask":
            masks[layer] = array > 0
            notes.append(f"layer {layer!r}: kept where the trained score is above 0")
        else:
            masks[layer] = array
    return masks, notes


def _read_nncf(contents: Contents, _: Names) -> Found:
    masks, notes = _nncf_masks(contents.state)
    return Found(masks, weights_of(contents.state, masks), notes=notes)


def _read_modelopt(contents: Contents, _: Names) -> Found:
    masks = dict(suffixed(contents.state, "_weight_mask"))
    # The tool leaves a mask out where it is all ones; vectors belong to normalisations.
    full = {
        layer: weight == weight
        for layer, weight in suffixed(contents.state, "weight")
        if layer not in masks and weight.ndim > 1
    }
    notes = [f"no mask is stored for {', '.join(full)}: all of it is kept"] if full else []
    masks |= full
    return Found(masks, weights_of(contents.state, masks), notes=notes)


def _read_apex(contents: Contents, _: Names) -> Found:
    masks = dict(suffixed(contents.state, "__weight_mma_mask"))
    weights = weights_of(contents.state, masks)
    notes = ["input channels are in the file's order: apex may have permuted the network's"]
    pruned = dict(suffixed(contents.state, "__weight_mma_pruned_p"))
    for layer, values in pruned.items():
        if layer in weights and values.shape == weights[layer].shape:
            weights[layer] = weights[layer] + values.astype(weights[layer].dtype)
            notes.append(f"layer {layer!r}: pruned values were taken from __weight_mma_pruned_p")
    return Found(masks, weights, notes=notes)


def _read_continuous(contents: Contents, _: Names) -> Found:
    state = contents.state
    masks = {layer: scores > 0 for layer, scores in suffixed(state, "mask_weight")}
    rewound = {
        layer: weight
        for layer, weight in suffixed(state, "init_weight")
        if layer in masks and weight.any()
    }
    return Found(
        masks,
        weights_of(state, masks),
        rewound,
        [
            "kept where mask_weight is above 0, the limit of a growing temperature",
            "weights are as stored: the constant 1 / sigmoid(initial mask value) that the network "
            "multiplies them with is not in the file",
        ],
    )


TOOLS = (
    Tool(
        "torch-prune",
        "L.weight_mask with L.weight_orig, or L.weight_mask alone",
        lambda c: is_pruned(c.state) and not _has_init(c),
        lambda c, _: read_pruned(c.state),
    ),
    Tool("shrinkbench", "L.weight_mask with L.weight", _is_shrinkbench, _read_shrinkbench),
    Tool(
        "nncf",
        "__nncf_hooks.post_hooks.L:weight__0.0.binary_mask (or .mask)",
        lambda c: any(map(_NNCF_HOOK.fullmatch, c.state)),
        _read_nncf,
    ),
    Tool(
        "modelopt",
        "L._weight_mask",
        lambda c: any(suffixed(c.state, "_weight_mask")),
        _read_modelopt,
    ),
    Tool(
        "apex",
        "L.__weight_mma_mask",
        lambda c: any(suffixed(c.state, "__weight_mma_mask")),
        _read_apex,
    ),
    Tool(
        "continuous-sparsification",
        "L.mask_weight with L.weight",
        lambda c: any(suffixed(c.state, "mask_weight")),
        _read_continuous,
    ),
)


def _has_init(contents: Contents) -> bool:
    return isinstance(contents.tree, Mapping) and isinstance(
        contents.tree.get("init_weight"), Mapping
    )
