"""The smallest network that still fails the same way.

Each step takes something away: outputs, nodes, parts of attributes, what is special about a
constant, and numbers along an axis. The first smaller network that fails is taken, until none is.
"""

from __future__ import annotations

from dataclasses import replace

from network_checks import Check

from masktools.errors import MasktoolsError
from masktools.network.operators import ARITHMETIC
from masktools.network.shapes import output_shapes
from runtime.errors import ExecutionError

# Kinds of failure that are one: which of them shows may depend on what memory held before.
NUMBERS = ("wrong", "unsteady", "spilt")
# How often the cheap steps may begin anew; far more than a network of a dozen nodes takes.
MOST_STEPS = 400


def shrink(network, failure, run):
    """Return the smallest network that fails like a given one.

    Parameters
    ----------
    network : Network
    failure : Failure
        Of that network.
    run : callable
        Takes the `Check` of a network and returns its failure, or None.

    Returns
    -------
    Network
    """

    def fails(smaller):
        try:
            check = Check(smaller)
            if not check.is_finite():
                return False
            found = run(check)
        except (MasktoolsError, ExecutionError, ValueError, IndexError):
            return False  # No network any more, such as a reshape to other numbers.
        if found is None:
            return False
        return found.kind == failure.kind or {found.kind, failure.kind} <= set(NUMBERS)

    for _ in range(MOST_STEPS):
        smaller = next((c for c in _smaller(network) if fails(c)), None)
        if smaller is None:
            return network
        network = smaller
    return network


def script(network, way):
    """Return Python that runs a network as it failed; for the folder of the tests."""
    return "\n".join(
        [
            "from network_checks import Check, Way",
            "from recipes import Network, Tensor",
            "",
            "from masktools.network.graph import Node",
            "",
            f"network = {network.code()}",
            f"print(Check(network).failure({way!r}))",
        ]
    )


def _smaller(network):
    """Yield networks with something less, those with much less first."""
    size = _size(network)
    for change in (_outputs, _cut, _bypassed, _batches, _parts, _attributes, _tensors, _axes):
        for made in change(network):
            made = made.pruned()
            if _size(made) < size:
                yield made


def _size(network):
    """Return what each step must lessen: nodes before borders, these before numbers."""
    attributes = sum(
        sum(abs(v) if isinstance(v, int) and abs(v) < 1 << 40 else 1 for v in _listed(value))
        for node in network.nodes
        for value in node.attributes.values()
    )
    tensors = list(network.tensors.values())
    special = sum(
        4 * (t.form != "dense") + 2 * t.half + 2 * (t.kind != "ones") + (t.seed != 0)
        for t in tensors
    )
    shapes = [*network.inputs.values(), *(t.shape for t in tensors)]
    return (
        len(network.nodes),
        sum(len(node.inputs) for node in network.nodes) + len(network.outputs),
        len(network.inputs) + len(network.batches),
        attributes + sum(n or 0 for shape in shapes for n in shape) + sum(network.batches),
        special,
    )


def _listed(value):
    return value if isinstance(value, tuple) else (value,)


# --- what may be taken away --------------------------------------------------------------------


def _outputs(network):
    made = [name for node in network.nodes for name in node.outputs]
    for name in made:
        yield replace(network, outputs=(name,))
    if len(network.outputs) > 2:
        for i in range(len(network.outputs)):
            yield replace(network, outputs=network.outputs[:i] + network.outputs[i + 1 :])


def _cut(network):
    """A node's outputs become inputs of the network."""
    two, three = network.shapes(2), network.shapes(3)
    for node in network.nodes:
        if set(node.outputs) & set(network.outputs):
            continue
        given = {
            name: two[name] if two[name] == three[name] else (None, *two[name][1:])
            for name in node.outputs
        }
        nodes = tuple(other for other in network.nodes if other is not node)
        yield replace(network, nodes=nodes, inputs={**network.inputs, **given})


def _bypassed(network):
    """Whoever reads a node's output reads an input of that node instead."""
    shapes = network.shapes(3)
    for at, node in enumerate(network.nodes):
        for name in node.inputs:
            if name in network.tensors or shapes[name] != shapes[node.outputs[0]]:
                continue
            nodes = tuple(
                replace(n, inputs=_exchanged(n.inputs, node.outputs[0], name))
                for i, n in enumerate(network.nodes)
                if i != at
            )
            outputs = tuple(dict.fromkeys(_exchanged(network.outputs, node.outputs[0], name)))
            yield replace(network, nodes=nodes, outputs=outputs)


def _exchanged(names, old, new):
    return tuple(new if name == old else name for name in names)


def _batches(network):
    for batch in network.batches:
        yield replace(network, batches=(batch,))
    if len(network.batches) == 1:
        for batch in _less(network.batches[0]):
            yield replace(network, batches=(batch,))


def _parts(network):
    """Nodes read less: no bias, fewer parts of a concatenation, a value in another's place."""
    for node in network.nodes:
        if node.op in ("Conv", "Gemm") and len(node.inputs) == 3:
            yield _with(network, node, inputs=node.inputs[:2])
        if node.op == "Concat" and len(node.inputs) > 1:
            for i in range(len(node.inputs)):
                yield _refitted(_with(network, node, inputs=node.inputs[:i] + node.inputs[i + 1 :]))
        for i, name in enumerate(node.inputs[1:], 1):
            if name not in network.tensors and name != node.inputs[0]:
                inputs = (*node.inputs[:i], node.inputs[0], *node.inputs[i + 1 :])
                yield _refitted(_with(network, node, inputs=inputs))


def _with(network, node, **changes):
    changed = replace(node, **changes)
    return replace(network, nodes=tuple(changed if n is node else n for n in network.nodes))


def _attributes(network):
    for node in network.nodes:
        for name, value in node.attributes.items():
            for smaller in _less_of(name, value):
                changed = {**node.attributes, name: smaller}
                yield _refitted(_with(network, node, attributes=changed))
        if "axes" in node.attributes and len(_listed(node.attributes["axes"])) > 1:
            for i in range(len(node.attributes["axes"])):
                yield _refitted(_with(network, node, attributes=_without(node.attributes, i)))


def _without(attributes, axis):
    """Return attributes without their entry for one of the axes that they list."""
    count = len(attributes["axes"])
    lists = {k: v for k, v in attributes.items() if isinstance(v, tuple) and len(v) == count}
    return {**attributes, **{k: v[:axis] + v[axis + 1 :] for k, v in lists.items()}}


def _less_of(name, value):
    """Yield simpler values of an attribute."""
    if name in ("axis", "axes", "perm", "transB", "shape"):
        return
    if isinstance(value, tuple):
        for i, entry in enumerate(value):
            for smaller in _less(entry, least=int(name in ("strides", "dilations"))):
                yield (*value[:i], smaller, *value[i + 1 :])
    elif isinstance(value, int):
        yield from _less(value, least=int(name == "group"))


def _less(number, least=1):
    if isinstance(number, int) and number > least:
        yield from dict.fromkeys((least, max(least, number // 2), number - 1))
    elif isinstance(number, int) and number < 0:
        yield 0


def _tensors(network):
    for name, tensor in network.tensors.items():
        for change in ({"form": "dense"}, {"half": False}, {"kind": "ones"}, {"seed": 0}):
            tensors = {**network.tensors, name: replace(tensor, **change)}
            yield replace(network, tensors=tensors)


def _axes(network):
    """An axis of an input or the rows of a weight become fewer."""
    for name, shape in network.inputs.items():
        for axis, size in enumerate(shape):
            for smaller in _less(size) if size else ():
                less = (*shape[:axis], smaller, *shape[axis + 1 :])
                yield _refitted(replace(network, inputs={**network.inputs, name: less}))
                # Other inputs may have to keep step with it.
                yield _refitted(
                    replace(
                        network,
                        inputs={
                            k: (*s[:axis], smaller, *s[axis + 1 :])
                            if s[axis:][:1] == (size,)
                            else s
                            for k, s in network.inputs.items()
                        },
                    )
                )
    for name, tensor in network.tensors.items():
        if name.endswith(".weight"):
            for axis, size in enumerate(tensor.shape):
                for smaller in _less(size):
                    less = (*tensor.shape[:axis], smaller, *tensor.shape[axis + 1 :])
                    tensors = {**network.tensors, name: replace(tensor, shape=less)}
                    yield _refitted(replace(network, tensors=tensors))


# --- fitting the rest --------------------------------------------------------------------------


def _refitted(network):
    """Return a network whose constants have the shapes that its values ask for, where they can."""
    shapes = {name: tuple(2 if n is None else n for n in s) for name, s in network.inputs.items()}
    tensors, nodes = dict(network.tensors), []
    for node in network.nodes:
        try:
            node = _fitted(node, shapes, tensors)
            known = {**{name: t.shape for name, t in tensors.items()}, **shapes}
            shapes.update(zip(node.outputs, output_shapes(node, known), strict=True))
        except (MasktoolsError, ZeroDivisionError, IndexError):
            return network  # As it is, it is told to be no network where it is run.
        nodes.append(node)
    return replace(network, nodes=tuple(nodes), tensors=tensors)


def _fitted(node, shapes, tensors):
    """Return a node that fits its inputs, and change the shapes of its constants in `tensors`."""

    def fit(name, shape, **changes):
        tensors[name] = replace(tensors[name], shape=tuple(shape), **changes)

    x = shapes.get(node.inputs[0], ())
    if node.op in ("Conv", "Gemm"):
        return _fitted_layer(node, x, tensors, fit)
    if node.op == "BatchNormalization":
        for name in node.inputs[1:]:
            fit(name, x[1:2])
    if node.op == "Split":
        parts = node.attributes["split"]
        last = x[node.attributes["axis"]] - sum(parts[:-1])
        return replace(node, attributes={**node.attributes, "split": (*parts[:-1], last)})
    if node.op in ARITHMETIC:
        for name in node.inputs:
            other = max((shapes[n] for n in node.inputs if n in shapes), key=len, default=())
            if name in tensors:
                old = tensors[name].shape
                ends = other[len(other) - len(old) :]
                fit(name, [1 if n == 1 else m for n, m in zip(old, ends, strict=True)])
    return node


def _fitted_layer(node, x, tensors, fit):
    weight = tensors[node.inputs[1]]
    rows, inner, *kernel = weight.shape
    if node.op == "Gemm":
        fit(node.inputs[1], (rows, x[-1]))
    else:
        group = node.attributes["group"]
        if inner == 1 and weight.groups > 1 and group == weight.groups:
            rows, group = max(1, rows // group) * x[1], x[1]
        rows = max(group, rows // group * group)
        fit(node.inputs[1], (rows, x[1] // group, *kernel), groups=group)
        node = replace(node, attributes={**node.attributes, "group": group})
    for name in node.inputs[2:]:
        fit(name, (rows,))
    return node
