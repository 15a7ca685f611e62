"""Networks as small descriptions: constants are recipes, so that one fits on a few lines of code.

What the generator draws, the checks run, and the shrinker makes smaller. `Network.code` is Python
that makes the same network again.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from masktools.checkpoint import Checkpoint
from masktools.checkpoint.weights import SparseWeight
from masktools.layout import BlockLayout, DenseBlock
from masktools.network.graph import Graph, Node, Value
from masktools.network.shapes import infer_shapes

# How a weight is stored; "empty" has neither a block nor a residual.
SPARSE = ("blocks", "residual", "both", "empty")
FORMS = ("dense", *SPARSE)


@dataclass(frozen=True)
class Tensor:
    """A constant, told by a recipe.

    Parameters
    ----------
    shape : tuple of int
    kind : str
        "weight": normal, and as large as keeps sums of order one; "normal"; "apart" from zero, of
        both signs; "positive": from a half to two; "ones".
    form : str
        One of `FORMS`; all but "dense" are for weights, whose name must end in ".weight".
    groups : int
        Convolution groups of the nodes that read it.
    half : bool
        Stored as float16.
    seed : int
    """

    shape: tuple[int, ...]
    kind: str = "normal"
    form: str = "dense"
    groups: int = 1
    half: bool = False
    seed: int = 0

    @property
    def columns(self):
        """Weights of a row."""
        return math.prod(self.shape[1:])

    def mask(self):
        """Return what is stored in blocks, as blocks, and what beside them, as a mask."""
        random = np.random.default_rng((self.seed, 1))
        rows, columns = self.shape[0], self.columns
        taken = np.zeros((rows, columns), np.bool_)
        blocks = []
        height = rows // self.groups
        if self.form in ("blocks", "both"):
            for first in range(0, rows, height):
                order = first + random.permutation(height)
                parts = int(random.integers(1, 4))
                for part in np.array_split(order, parts):
                    at = np.flatnonzero(random.random(columns) < random.choice([0.2, 0.5, 0.9]))
                    if part.size and at.size and random.random() < 0.9:
                        blocks.append(DenseBlock(np.sort(part), at))
                        taken[np.ix_(part, at)] = True
        kept = np.zeros_like(taken)
        if self.form in ("residual", "both"):
            density = random.choice([0.05, 0.2, 0.5]) if self.form == "both" else 0.3
            kept = (random.random(taken.shape) < density) & ~taken
            kept[random.random(rows) < 0.1] = False
        return BlockLayout(self.shape, blocks, self.groups), kept.reshape(self.shape)

    def array(self):
        """Return the constant, dense."""
        random = np.random.default_rng((self.seed, 0))
        numbers = random.standard_normal(self.shape)
        if self.kind == "weight":
            density = {"dense": 1.0, "residual": 0.3}.get(self.form, 0.5)
            numbers /= math.sqrt(max(1.0, density * self.columns))
        elif self.kind == "apart":
            numbers = np.where(numbers < 0, -1, 1) * (0.5 + 1.5 * random.random(self.shape))
        elif self.kind == "positive":
            numbers = 0.5 + 1.5 * random.random(self.shape)
        elif self.kind == "ones":
            numbers = np.ones(self.shape)
        return np.asarray(numbers, np.float16 if self.half else np.float32)

    def sparse(self):
        """Return the constant as a checkpoint stores a sparse weight."""
        layout, kept = self.mask()
        return SparseWeight.from_dense(self.array(), layout, kept)


@dataclass(frozen=True)
class Network:
    """A network and the batches that it is to be run with.

    Parameters
    ----------
    inputs : mapping of str to tuple of int or None
        Shapes, None for any batch.
    nodes : tuple of Node
    outputs : tuple of str
    tensors : mapping of str to Tensor
        The constants.
    batches : tuple of int
        Each is run; the second with weights that were packed for the first.
    seed : int
        Of the numbers that are put in.
    """

    inputs: Mapping[str, tuple[int | None, ...]]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    batches: tuple[int, ...] = (2,)
    seed: int = 0

    @property
    def is_open(self):
        """Whether every input takes any batch: then no sample knows of another."""
        return all(shape[0] is None for shape in self.inputs.values())

    def shapes(self, batch):
        """Return the shape of every value and constant."""
        given = {
            name: tuple(batch if n is None else n for n in shape)
            for name, shape in self.inputs.items()
        }
        values = tuple(Value(name, shape) for name, shape in self.inputs.items())
        tensors = {name: t.shape for name, t in self.tensors.items()}
        return infer_shapes(Graph(values, (), self.nodes), given, tensors)

    def checkpoint(self):
        """Return it as what the runtime loads."""
        two, three = self.shapes(2), self.shapes(3)
        outputs = tuple(
            Value(name, two[name] if two[name] == three[name] else (None, *two[name][1:]))
            for name in self.outputs
        )
        sparse = {
            name.removesuffix(".weight"): tensor.sparse()
            for name, tensor in self.tensors.items()
            if tensor.form != "dense"
        }
        dense = {name: t.array() for name, t in self.tensors.items() if t.form == "dense"}
        inputs = tuple(Value(name, shape) for name, shape in self.inputs.items())
        return Checkpoint(Graph(inputs, outputs, self.nodes, dense), sparse)

    def numbers(self, batch, variant=0):
        """Return what is put in, of order one and different for each input."""
        return {
            name: np.random.default_rng((self.seed, batch, variant, zlib.crc32(name.encode())))
            .standard_normal(tuple(batch if n is None else n for n in shape))
            .astype(np.float32)
            for name, shape in self.inputs.items()
        }

    def pruned(self):
        """Return it without what no output needs."""
        needed, nodes = set(self.outputs), []
        for node in reversed(self.nodes):
            if needed & set(node.outputs):
                needed.update(node.inputs)
                nodes.append(node)
        inputs = {name: shape for name, shape in self.inputs.items() if name in needed}
        return replace(
            self,
            inputs=inputs or dict(list(self.inputs.items())[:1]),
            nodes=tuple(reversed(nodes)),
            tensors={name: t for name, t in self.tensors.items() if name in needed},
        )

    def code(self):
        """Return Python that makes it, given the names of this module."""
        lines = ["Network(", f"    inputs={dict(self.inputs)!r},", "    nodes=("]
        lines += [
            f"        Node({n.name!r}, {n.op!r}, {n.inputs!r}, {n.outputs!r}, "
            f"{dict(n.attributes)!r}),"
            for n in self.nodes
        ]
        lines += ["    ),", f"    outputs={self.outputs!r},", "    tensors={"]
        lines += [f"        {name!r}: {_brief(t)}," for name, t in self.tensors.items()]
        return "\n".join(
            [*lines, "    },", f"    batches={self.batches!r},", f"    seed={self.seed},", ")"]
        )


def _brief(tensor):
    """Return a recipe as code, without what goes without saying."""
    plain = Tensor(tensor.shape)
    said = {k: v for k, v in vars(tensor).items() if k != "shape" and v != getattr(plain, k)}
    return f"Tensor({', '.join([repr(tensor.shape), *(f'{k}={v!r}' for k, v in said.items())])})"
