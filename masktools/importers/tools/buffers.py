"""Tools that keep a mask beside each weight in the state dict: they differ in the names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from masktools.importers.contents import Array, Contents, State, join, suffixed
from masktools.importers.parameters import is_mask_name, layer_of
from masktools.importers.tool import Found, Names, Tool, bias_notes, weights_of

_NNCF_HOOK = re.compile(r"(.*?)__nncf_hooks\.post_hooks\.(.+)__\d+\.\d+\.(binary_mask|mask)")
_APEX = re.compile(r"(?:(.*)\.)?__(\w+)_mma_mask")
_NNI_WRAPPER = "_nni_wrapper"


def _own_masks(state: State) -> dict[str, str]:
    """Return the parameters that have a mask ``<parameter>_mask`` of their own, and its name.

    Those of torch.nn.utils.prune: beside ``<parameter>_orig``, or of a ``weight`` alone.
    """
    found = {}
    for name in state:
        parameter = name.removesuffix("_mask")
        module, _, leaf = parameter.rpartition(".")
        if parameter == name or leaf.startswith("_") or _wrapped(module):
            continue
        if leaf == "weight" or f"{parameter}_orig" in state:
            found[parameter] = name
    return found


def _is_bias(parameter: str) -> bool:
    return "bias" in parameter.rpartition(".")[2]


def is_pruned(state: State) -> bool:
    """Tell whether torch.nn.utils.prune made these names, or masks alone under its name."""
    parameters = [name for name in _own_masks(state) if not _is_bias(name)]
    return bool(parameters) and not any(name in state for name in parameters)


def read_pruned(state: State) -> Found:
    """Read ``P_mask`` and, where it is there, ``P_orig`` of all parameters P but biases."""
    masks: dict[str, Array] = {}
    weights: dict[str, Array] = {}
    for parameter, name in _own_masks(state).items():
        if _is_bias(parameter):
            continue
        masks[layer_of(parameter)] = state[name]
        if f"{parameter}_orig" in state:
            weights[layer_of(parameter)] = state[f"{parameter}_orig"]
    return Found(masks, weights, notes=_left_out(state, set(_own_masks(state).values())))


def _left_out(state: State, read: Collection[str]) -> list[str]:
    """Return the notes about masks that are not read: of biases, and those of no known weight."""
    biases = [n for n in state if n.endswith("_mask") and _is_bias(n.removesuffix("_mask"))]
    left = [name for name in state if is_mask_name(name) and name not in read]
    return bias_notes(len(biases)) + (
        [f"left out, for it is not known what they mask: {', '.join(left)}"] if left else []
    )


def _wrapped(layer: str) -> bool:
    return layer == _NNI_WRAPPER or layer.endswith(f".{_NNI_WRAPPER}")


def _is_shrinkbench(contents: Contents) -> bool:
    return any(name in contents.state for name in _own_masks(contents.state) if not _is_bias(name))


def _read_shrinkbench(contents: Contents, _: Names) -> Found:
    state = contents.state
    own = {p: f"{p}_mask" for p in state if f"{p}_mask" in state} | _own_masks(state)
    masks = {layer_of(p): state[name] for p, name in own.items() if not _is_bias(p)}
    weights = {layer_of(p): state[p] for p in own if p in state and not _is_bias(p)}
    return Found(masks, weights, notes=_left_out(state, own.values()))


def is_nni_wrapped(state: Mapping[str, Array]) -> bool:
    """Tell whether a model was saved while NNI's wrappers were still around its layers."""
    return any(_wrapped(layer) for layer, _ in suffixed(state, "weight_mask"))


def read_nni_wrapped(state: Mapping[str, Array]) -> Found:
    """Read ``L._nni_wrapper.weight_mask`` beside the unmasked ``L._nni_wrapper.weight``."""

    def inside(leaf: str) -> dict[str, Array]:
        return dict(suffixed(state, join(_NNI_WRAPPER, leaf)))

    masks, weights = inside("weight_mask"), inside("weight")
    notes = [
        f"the wrapper's name {_NNI_WRAPPER!r} was stripped",
        *bias_notes(len(inside("bias_mask"))),
    ]
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
    read = {join(layer, "_weight_mask") for layer in masks}
    notes += _left_out(contents.state, read)
    masks |= full
    return Found(masks, weights_of(contents.state, masks), notes=notes)


def _read_apex(contents: Contents, _: Names) -> Found:
    state = contents.state
    masks: dict[str, Array] = {}
    weights: dict[str, Array] = {}
    notes = ["input channels are in the file's order: apex may have permuted the network's"]
    for name, mask in state.items():
        named = _APEX.fullmatch(name)
        if named is None:
            continue
        parameter = join(named[1] or "", named[2])
        layer = layer_of(parameter)
        masks[layer] = mask
        if parameter not in state:
            continue
        weights[layer] = state[parameter]
        pruned = state.get(join(named[1] or "", f"__{named[2]}_mma_pruned_p"))
        if pruned is not None and pruned.shape == weights[layer].shape:
            weights[layer] = weights[layer] + pruned.astype(weights[layer].dtype)
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
        lambda c: any(map(_APEX.fullmatch, c.state)),
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
