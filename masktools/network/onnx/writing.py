"""Write the nodes, constants and names of a network in normal form, while ONNX is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.network.graph import Node, Shape, fresh, numbered
from masktools.network.layers import layer_name
from masktools.network.onnx.folding import Folding
from masktools.network.onnx.forms import SAME, Form, Use
from masktools.network.onnx.node import Source, Turned
from masktools.network.shapes import output_shapes


class Writing:
    """The network in normal form, as far as it is written.

    Parameters
    ----------
    folding : Folding
        The constants of the file.
    inputs : mapping of str to tuple of int
        The inputs' shapes.
    taken : iterable of str
        Names that the file gives to its tensors.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        Of every tensor that depends on the inputs.
    weights : dict of str to list of Use
        By the weight's name in the graph, the nodes in the file that read it.
    turned : dict of str to Turned
        Tensors whose batch is not their first axis; `shapes` has the values that stand for them.
    constants : dict of str to ndarray
        All that is known while reading, integers too.
    """

    def __init__(self, folding: Folding, inputs: Mapping[str, Shape], taken: Iterable[str]) -> None:
        self.shapes: dict[str, Shape] = dict(inputs)
        self.weights: dict[str, list[Use]] = {}
        self.turned: dict[str, Turned] = {}
        self.constants = folding.values
        self._folding = folding
        self._taken = set(taken)
        self._nodes: list[Node] = []
        self._node_names: set[str] = set()
        self._kept: dict[str, NDArray[Any]] = {}  # What the nodes read, under its new name.
        self._numbers: dict[float, str] = {}  # Of those constants that `number` made.
        self._alias: dict[str, str] = {}
        self._sequences: dict[str, tuple[str, ...]] = {}  # Of each sequence, the tensors in it.

    def shape(self, name: str) -> Shape:
        """Return the shape of a tensor at this batch size."""
        constant = self.constants.get(name)
        return self.shapes[name] if constant is None else constant.shape

    def fresh(self, wish: str) -> str:
        """Return a tensor name that nothing has yet: `wish`, if that is free."""
        name = fresh(wish, self._taken, self._kept, self.constants)
        self._taken.add(name)
        return name

    def _fresh_node(self, wish: str) -> str:
        name = fresh(wish, self._node_names)
        self._node_names.add(name)
        return name

    def keep(self, array: NDArray[Any], wish: str) -> str:
        """Store a constant in float32 for the nodes to read, and return its name."""
        return self._store(array, wish, lambda name: name not in self.weights)

    def keep_weight(
        self, source: Source, array: NDArray[Any], form: Form = SAME, index: int = 1
    ) -> str:
        """Store the weight of a layer, (out, in / groups, ...), and return the layer's name.

        Parameters
        ----------
        source : Source
        array : ndarray
        form : Form, default SAME
            How the file has the weight.
        index : int, default 1
            Which input of the node it is.
        """
        read = source.inputs[index]
        wish = layer_name(self._folding.origin(read), source.given) + form.mark
        name = self._store(array, wish, lambda name: name in self.weights, ".weight")
        self.weights.setdefault(name, []).append(Use(source.first, form, index))
        return name.removesuffix(".weight")

    def _store(
        self,
        array: NDArray[Any],
        wish: str,
        may_share: Callable[[str], bool],
        suffix: str = "",
    ) -> str:
        kept = np.asarray(array, np.float32, order="C")

        def is_fit(name: str) -> bool:
            if name in self._taken and name not in self.constants:
                return False
            before = self._kept.get(name)
            return before is None or (may_share(name) and np.array_equal(before, kept))

        name = next(filter(is_fit, numbered(wish, suffix)))
        self._kept[name] = kept
        return name

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: str | Sequence[str],
        name: str,
        kept: Sequence[str] = (),
        **attributes: Any,  # noqa: ANN401 - of several types
    ) -> None:
        """Append a node of the normal form, and derive the shapes of its outputs.

        Parameters
        ----------
        op : str
        inputs : sequence of str
            As the file names them; constants among them are kept for the node.
        outputs : str or sequence of str
        name : str
            A number is added where another node has it.
        kept : sequence of str, default ()
            Further inputs: constants, as `keep` named them.
        **attributes
            Of the normal form.
        """
        unique = self._fresh_node(name)
        values = [i if i in self.shapes else self.keep(self.constants[i], i) for i in inputs]
        known = {
            i: self.shapes[i] if i in self.shapes else self._kept[i].shape for i in [*values, *kept]
        }
        made = (outputs,) if isinstance(outputs, str) else tuple(outputs)
        node = Node(unique, op, (*values, *kept), made, attributes)
        self._nodes.append(node)
        self.shapes.update(zip(made, output_shapes(node, known), strict=True))

    def number(self, value: float) -> str:
        """Return the name of a constant of one number, for `emit`."""
        name = self._numbers.get(value)
        if name is None:
            name = self._numbers[value] = self.fresh("number")
            self.constants[name] = np.array(value, np.float32)
        return name

    def remove(self, source: Source, value: str | None = None) -> None:
        """Let a node's output be its first input, or another tensor that is there."""
        self.rename(source.outputs[0], source.inputs[0] if value is None else value)

    def rename(self, output: str, name: str) -> None:
        """Let an output of the file be a tensor that is there."""
        self._alias[output] = name

    def renamed(self, output: str) -> str:
        """Return the tensor that an output of the file is."""
        return self._alias.get(output, output)

    def write_out(self, name: str, node: str) -> str:
        """Return a value that is a tensor as the file has it, wherever its batch is.

        Parameters
        ----------
        name : str
            Of the tensor.
        node : str
            The name of the node that reads it.
        """
        if name not in self.turned:
            return name
        tensor = self.turned[name]
        apart, rank = tensor.value, len(self.shape(tensor.value))
        inner = 1 + tensor.axis + (tensor.before > 1)
        perm = (*range(1, inner), 0, *range(inner, rank))
        if perm != tuple(range(rank)):
            apart = self.fresh(f"{name}_turned")
            self.emit("Transpose", [tensor.value], apart, f"{node}_turn", perm=perm)
        if tensor.before * tensor.after == 1:
            return apart
        joined = self.fresh(f"{name}_joined")
        self.emit("Reshape", [apart], joined, f"{node}_join", shape=tensor.shape)
        return joined

    def collect(self, source: Source, tensors: Sequence[str]) -> None:
        """Let a node's output be a sequence of tensors."""
        self._sequences[source.outputs[0]] = tuple(tensors)

    def sequence(self, source: Source) -> tuple[str, ...]:
        """Return the tensors in the sequence that is a node's first input."""
        if source.inputs[0] not in self._sequences:
            raise source.refuse(f"input {source.inputs[0]!r} is no sequence")
        return self._sequences[source.inputs[0]]

    def define(self, source: Source, array: NDArray[Any]) -> None:
        """Let a node's output be a constant."""
        self.constants[source.outputs[0]] = array
