"""Go once over the nodes of an ONNX graph: fold constants, rewrite all other nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from masktools.errors import GraphError
from masktools.network.graph import Graph, Shape, Value
from masktools.network.onnx.branches import branch
from masktools.network.onnx.cleaning import live, without_copies
from masktools.network.onnx.counts import makes_counts
from masktools.network.onnx.folding import Folding
from masktools.network.onnx.folding_cost import FOLDED
from masktools.network.onnx.node import Source
from masktools.network.onnx.precision import BOOL, dtype_of
from masktools.network.onnx.proto_nodes import with_branches
from masktools.network.onnx.shape_arithmetic import follow, of_shape, sizes
from masktools.network.onnx.spelled import unspelled
from masktools.network.onnx.spelled_norms import with_layer_norms
from masktools.network.onnx.transposes import without_transposes
from masktools.network.onnx.unsupported import WAYS_AROUND, unsupported
from masktools.network.onnx.writing import Writing
from masktools.network.sizes import Size

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

# What may read a sequence of tensors.
SEQUENCES = ("SequenceAt",)

Rewrites: TypeAlias = "Mapping[str, Callable[[Pass, Source], None]]"


class Pass(Writing):
    """The network at one batch size, while its nodes are rewritten one by one.

    What is written of it stands in `Writing`.

    Parameters
    ----------
    proto : GraphProto
        Not changed.
    opset : int
    weights : mapping of str to ndarray
        The initializers.
    inputs : mapping of str to tuple of int
        The inputs' shapes; a `Size` where the file leaves one open.
    batch : int or None
        The batch size that the file itself fixes, which its constants may repeat.
    rewrites : mapping of str to callable
        For each operator of ONNX that is read, the function that writes it in the normal form.

    Attributes
    ----------
    graph : Graph
        In the normal form, with the shapes of this batch size.
    booleans : set of str
        Values that are booleans in the file: ones and zeros here.
    counts : set of str
        Tensors of the file that are whole numbers there, counts of booleans: floats here.
    said : int or None
        The batch size that the file itself fixes.
    chose : bool
        An If was read: one of its branches.

    Raises
    ------
    GraphError
        If an operator, an attribute or a shape is not supported.
    """

    def __init__(
        self,
        proto: GraphProto,
        opset: int,
        weights: Mapping[str, NDArray[Any]],
        inputs: Mapping[str, Shape],
        batch: int | None,
        rewrites: Rewrites,
    ) -> None:
        everything = list(with_branches(proto.node))
        made = {name for node in everything for name in node.output}
        super().__init__(Folding(weights, opset), inputs, made | set(inputs))
        self.opset = opset
        self._rewrites = rewrites
        self.booleans: set[str] = set()
        self.counts: set[str] = set()
        self.said = batch
        self.chose = False
        self._batches = {batch, *(shape[0] for shape in inputs.values())}
        # The formulas of constants that follow from open sizes.
        self._entries: dict[str, NDArray[Any]] = {}
        self._read_names = {name for node in everything for name in node.input}
        self._read_names |= {value.name for value in proto.output}
        self._dtypes = {v.name: dtype_of(v) or "float32" for v in (*proto.input, *proto.output)}
        for value in proto.output:
            if value.type.tensor_type.elem_type == BOOL:
                raise GraphError(
                    f"output {value.name!r}: dtype bool, but a network gives floats; cast it to "
                    "float32 in the network"
                )
        place = 0
        try:
            for place, node in enumerate(proto.node):  # noqa: B007 - for the error
                self._read(node)
        except GraphError as error:
            raise GraphError(f"{error}{self._all_others(proto.node[place:])}") from error
        self.graph = self._finish([v.name for v in proto.output], inputs)

    # --- what the rewriting of operators asks ---------------------------------------------------

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return the value of a tensor that does not depend on the inputs, else None."""
        return self.constants.get(name)

    def constant_input(self, source: Source, index: int, what: str) -> NDArray[Any]:
        """Return an input that must be a constant."""
        value = self.constant(source.input(index))
        if value is None:
            raise source.refuse(f"{what}, input {index}, must be a constant")
        return value

    def integers(self, source: Source, name: str, index: int) -> tuple[int, ...] | None:
        """Return an attribute that newer operator sets made an input; None if left out."""
        if name in source.attributes:
            return tuple(int(v) for v in source.take(name))
        if not source.input(index):
            return None
        value = self.constant_input(source, index, name)
        return sizes(value, self._entries.get(source.input(index)))

    def is_batch(self, size: int) -> bool:
        """Return whether a size on the first axis is the batch size."""
        return size in self._batches and not isinstance(size, Size)

    def _all_others(self, nodes: Sequence[NodeProto]) -> str:
        """Return the end of an error: every operator that cannot be read, not only the first."""
        varying = [*self.shapes, *self.turned, *self._alias]
        rest = unsupported(nodes, varying, self._rewrites, FOLDED)
        return f"; operators that cannot be read: {rest}" if rest else ""

    # --- reading --------------------------------------------------------------------------------

    def _read(self, proto: NodeProto) -> None:
        source = self._source(proto)
        values = [self.constants.get(name) for name in source.inputs]
        if source.op == "If":
            self._choose(source, branch(proto, source, next(iter(values), None)))
            return
        if source.op in ("Shape", "Size") and values[0] is None:
            # Only the shape is looked at: one zero, repeated, has it at no cost.
            values = [np.broadcast_to(np.float32(0), self._in_file(source.inputs[0]))]
        if all(v is not None or not n for v, n in zip(values, source.inputs, strict=True)):
            self._fold(proto, source, values)
        elif source.op in self._rewrites:
            counted = makes_counts(source, proto.input, self.counts)
            self._rewrites[source.op](self, source)
            source.finish()
            if counted:
                self.counts.update(proto.output)
        else:
            way = WAYS_AROUND.get(source.op, "")
            raise source.refuse(f"operator {source.op!r} is not supported{way and f': {way}'}")

    def _choose(self, source: Source, chosen: GraphProto) -> None:
        """Read the branch of an If in its place."""
        self.chose = True
        before = sum(map(len, self.weights.values()))
        for node in chosen.node:
            self._read(node)
        if sum(map(len, self.weights.values())) > before:
            raise source.refuse("its branch has a layer with weights, which is not supported")
        for output, made in zip(source.outputs, chosen.output, strict=True):
            if not output:
                continue
            found = self.renamed(made.name)
            if found in self.constants:
                self.constants[output] = self.constants[found]
                if found in self._entries:
                    self._entries[output] = self._entries[found]
            else:
                self.rename(output, found)
            if made.name in self.counts:
                self.counts.add(output)

    def _source(self, proto: NodeProto) -> Source:
        # Optional outputs that nothing reads, as Dropout's mask, are as good as left out.
        split = proto.op_type == "Split"
        outputs = [o if split or o in self._read_names else "" for o in proto.output[1:]]
        source = Source.of(proto, [], [*proto.output[:1], *outputs])
        for given in proto.input:
            found = self._alias.get(given, given)
            known = any(found in names for names in (self.shapes, self.turned, self.constants))
            if found and not known and not (found in self._sequences and source.op in SEQUENCES):
                raise source.refuse(f"input {given!r} is made by nothing before it")
            source.inputs.append(found)
        return source

    def _fold(
        self, proto: NodeProto, source: Source, values: Sequence[NDArray[Any] | None]
    ) -> None:
        """Evaluate a node whose inputs are known."""
        made = self._folding.fold(proto, source, values)
        entries = self._followed(proto, source, values, made)
        for name, formulas in zip(filter(None, proto.output), entries, strict=True):
            if formulas is not None:
                self._entries[name] = formulas

    def _in_file(self, name: str) -> Shape:
        """Return the shape that the file has for a tensor."""
        return self.turned[name].shape if name in self.turned else self.shape(name)

    def _followed(
        self,
        proto: NodeProto,
        source: Source,
        values: Sequence[NDArray[Any] | None],
        made: Sequence[NDArray[Any]],
    ) -> Sequence[NDArray[Any] | None]:
        """Return the formulas of what a node makes, where it follows from open sizes."""
        if source.op in ("Shape", "Size") and source.inputs[0] not in self.constants:
            return [of_shape(source, self._in_file(source.inputs[0]))]
        entries = [self._entries.get(name) for name in source.inputs]
        if all(entry is None for entry in entries):
            return [None] * len(made)

        def again(places: Mapping[int, NDArray[Any]]) -> Sequence[NDArray[Any]]:
            feeds = {n: v for n, v in zip(proto.input, values, strict=True) if v is not None}
            changed = {proto.input[at]: v for at, v in places.items()}
            return self._folding.evaluate(proto, feeds | changed)

        return follow(source, values, entries, made, again)

    def _finish(self, outputs: Sequence[str], inputs: Mapping[str, Shape]) -> Graph:
        for name in outputs:
            if name in self.counts:
                raise GraphError(f"output {name!r} is a count of booleans: cast it to float32")
            found = self.write_out(self._alias.get(name, name), f"Identity_{name}")
            if found not in self.shapes:
                raise GraphError(f"output {name!r} does not depend on the inputs")
            if found != name:
                self.emit("Identity", [found], name, f"Identity_{name}")
        nodes = without_copies(live(self._nodes, outputs), {*outputs, *inputs})
        nodes = without_transposes(
            nodes, self.shapes, self._kept, outputs, self.fresh, self._fresh_node
        )
        nodes = without_copies(nodes, {*outputs, *inputs})
        nodes = unspelled(nodes, self._kept, self.shapes, outputs)
        nodes = with_layer_norms(nodes, self._kept, self.shapes, outputs)
        read = {name for node in nodes for name in node.inputs}
        return Graph(
            tuple(Value(name, shape, self._dtypes[name]) for name, shape in inputs.items()),
            tuple(Value(name, self.shapes[name], self._dtypes[name]) for name in outputs),
            tuple(nodes),
            {name: array for name, array in self._kept.items() if name in read},
        )
