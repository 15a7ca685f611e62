"""Random networks of every operator of the format, each from a seed.

As a program, it runs them on every backend at hand and prints the smallest network of each kind of
failure: ``python tests/support/random_networks.py --count 10000``.
"""

from __future__ import annotations

import math

import numpy as np
from random_motifs import MAKERS
from random_nodes import ROWS
from recipes import Network, Tensor

from masktools.errors import GraphError
from masktools.network.graph import Node
from masktools.network.shapes import output_shapes

# What stands for an open batch while shapes are drawn: no other axis is as large.
OPEN = 7919
# Numbers of a value, and multiplications of a layer, in one sample; and of all, in a batch.
LARGEST, LONGEST = 6000, 1 << 20
NUMBERS, PRODUCTS = 300_000, 6_000_000
SIZES = (1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 14, 15, 16, 17, 28)
BATCHES = (1, 1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 64, 80)
# Of such sums is a value whose numbers may grow no further.
TAME = (
    "Sigmoid",
    "HardSigmoid",
    "Softmax",
    "Clip",
    "Greater",
    "GreaterOrEqual",
    "Equal",
    "Sin",
    "Cos",
)


class Draft:
    """A network as it grows; the functions of `random_nodes` and `random_motifs` add to it."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.inputs, self.tensors, self.nodes = {}, {}, []
        self.values = {}  # name: shape
        self._powers, self._products = {}, 0

    def pick(self, options):
        return options[int(self.random.integers(len(options)))]

    def chance(self, share):
        return bool(self.random.random() < share)

    def shape(self, name):
        return self.values[name]

    def is_open(self, name):
        return self.values[name][0] == OPEN

    def power(self, name):
        """Return how many values were multiplied: numbers stay of order one where these are few."""
        return self._powers[name]

    def axis(self, x):
        """Return an axis that may be worked along, or None: no open batch may."""
        rank = len(self.shape(x))
        if not self.is_open(x) and (rank == 1 or self.chance(0.4)):
            return 0
        return int(self.random.integers(1, rank)) if rank > 1 else None

    def some_axes(self, x):
        first = 1 if self.is_open(x) else 0
        axes = self.random.permutation(range(first, len(self.shape(x)))).tolist()
        return tuple(axes[: self.pick((1, 1, 2, 3))])

    def broadcasts(self, x, y):
        """Return whether two values fit each other, and leave the batch where it is."""
        a, b = self.shape(x), self.shape(y)
        if len(a) != len(b):
            return False
        return all(n == m or 1 in (n, m) for n, m in zip(a, b, strict=True))

    def given(self, shape):
        name = f"x{len(self.inputs)}"
        self.inputs[name] = shape
        self.values[name] = tuple(OPEN if n is None else n for n in shape)
        self._powers[name] = 1

    def tensor(self, shape, kind="normal", form="dense", groups=1, suffix=""):
        """Add a constant and return its name."""
        name = f"c{len(self.tensors)}{suffix}"
        half = self.chance(0.05)
        self.tensors[name] = Tensor(tuple(shape), kind, form, groups, half, len(self.tensors))
        return name

    def node(self, op, inputs, count=1, half=False, **attributes):
        """Add a node; None where its inputs are, or where it would not fit or be too large.

        Returns the name of its output: of one of them, where there are several.
        """
        if None in inputs or (op == "Slice" and not attributes["axes"]):
            return None
        number = len(self.nodes)
        outputs = tuple(f"t{number}" if count == 1 else f"t{number}_{i}" for i in range(count))
        node = Node(f"n{number}", op, tuple(inputs), outputs, attributes)
        known = {**self.values, **{name: t.shape for name, t in self.tensors.items()}}
        try:
            made = output_shapes(node, known)
        except GraphError:
            return None
        was_open = any(known[name][:1] == (OPEN,) for name in inputs)
        if any(self._is_unfit(shape, was_open) for shape in made):
            return None
        if op in ("Conv", "Gemm"):
            products = math.prod(made[0][1:]) * self.tensors[inputs[1]].columns
            if products > LONGEST:
                return None
            self._products += products
        powers = [self._powers.get(name, 1) for name in inputs]
        power = (
            1
            if op in TAME or half
            else sum(powers)
            if op in ("Mul", "MatMul", "PRelu")
            else max(powers)
        )
        self.nodes.append(node)
        self.values.update(zip(outputs, made, strict=True))
        self._powers.update(dict.fromkeys(outputs, power))
        return self.pick(outputs)

    def undo(self, name):
        """Take back the node that was added last."""
        self.nodes.pop()
        del self.values[name]

    @staticmethod
    def _is_unfit(shape, was_open):
        if not shape or OPEN in shape[1:] or (shape[0] == OPEN) != was_open:
            return True
        sample = shape[1:] if was_open else shape
        return math.prod(sample) > LARGEST or len(shape) > 5

    def batches(self):
        """Return one or two batches, as large as the network is small."""
        if not any(shape[0] is None for shape in self.inputs.values()):
            return (1,)
        numbers = sum(math.prod(s[1:]) for s in self.values.values())
        most = min(NUMBERS // numbers, PRODUCTS // max(1, self._products))
        fitting = [n for n in BATCHES if n <= most] or [1]
        first, second = self.pick(fitting), self.pick(fitting)
        return (first, second) if self.chance(0.3) and second != first else (first,)


def given_shape(draft, rank):
    """Return the shape of an input for any batch."""
    while math.prod((shape := _any_shape(draft, rank))[1:]) > LARGEST:
        pass
    return shape


def _any_shape(draft, rank):
    if rank == 2:
        return (None, draft.pick((*ROWS, 100)))
    if rank == 3:
        return (None, draft.pick(ROWS), draft.pick((*SIZES, 33, 64)))
    height, width = draft.pick(SIZES), draft.pick(SIZES)
    return (None, draft.pick(ROWS), height, height if draft.chance(0.4) else width)


def draw(seed):
    """Return the network of a seed.

    Parameters
    ----------
    seed : int

    Returns
    -------
    Network
    """
    draft = Draft(seed)
    fixed = draft.chance(0.15)
    rank = draft.pick((2, 3, 3, 4, 4, 4, 4))
    shape = given_shape(draft, rank)
    for _ in range(draft.pick((1, 1, 1, 2))):
        shape = shape if draft.chance(0.5) else given_shape(draft, rank)
        most = LARGEST // math.prod(shape[1:])
        batch = draft.pick([n for n in (1, 2, 3, 5, 16) if n <= most]) if fixed else None
        draft.given((batch, *shape[1:]))
    if not fixed and draft.chance(0.05):
        draft.given((1, *given_shape(draft, rank)[1:]))  # is broadcast along the batch
    makers, weights = list(MAKERS), np.array(list(MAKERS.values()))
    wanted = draft.pick((1, 2, 3, 4, 5, 6, 8, 10))
    x = next(iter(draft.inputs))
    for _ in range(4 * wanted):
        if len(draft.nodes) >= wanted:
            break
        make = makers[int(draft.random.choice(len(makers), p=weights / weights.sum()))]
        x = make(draft, x) or x
        if draft.chance(0.35):
            x = draft.pick(list(draft.values))
    return _finished(draft, seed)


def _finished(draft, seed):
    """Return the network of a draft: what nothing reads is an output, and some of what is read."""
    if not draft.nodes:
        draft.node("Relu", [next(iter(draft.inputs))])
    read = {name for node in draft.nodes for name in node.inputs}
    made = [name for node in draft.nodes for name in node.outputs]
    ends = [name for name in made if name not in read]
    kept = [name for name in ends if draft.chance(0.8)] or ends[-1:]
    kept += [name for name in made if name in read and draft.chance(0.1)]
    if draft.chance(0.03):
        kept.append(next(iter(draft.inputs)))
    order = draft.random.permutation(len(kept))
    outputs = tuple(kept[i] for i in order)
    tensors = {name: t for name, t in draft.tensors.items() if name in read}
    return Network(draft.inputs, tuple(draft.nodes), outputs, tensors, draft.batches(), seed)


if __name__ == "__main__":
    from network_campaign import main

    main()
