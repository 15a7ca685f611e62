"""A node of an ONNX graph as the file has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from masktools.errors import GraphError
from masktools.network.graph import Shape, where
from masktools.network.onnx.unsupported import operator

if TYPE_CHECKING:
    from onnx import NodeProto


@dataclass(frozen=True)
class Turned:
    """A tensor of the file whose batch is not its first axis alone.

    Parameters
    ----------
    value : str
        In the normal form: the batch, then all other axes of the tensor. The axis of the batch
        leaves behind what it has before and after the batch, where that is more than 1.
    shape : tuple of int
        In the file.
    axis : int
        The axis that the batch is, or is a factor of.
    before, after : int, default 1
        The other factors of that axis, in C order.
    """

    value: str
    shape: Shape
    axis: int
    before: int = 1
    after: int = 1


@dataclass
class Source:
    """A node of an ONNX file, which keeps track of the attributes that were read.

    Parameters
    ----------
    name, op : str
    given : str
        The name in the file, which may be empty.
    inputs : list of str
        Without removed nodes in between; "" where left out.
    outputs : list of str
    first : str
        Its first output in the file; `outputs` may have other names while it is rewritten.
    attributes : dict
    """

    name: str
    op: str
    given: str
    inputs: list[str]
    outputs: list[str]
    first: str
    attributes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, proto: NodeProto, inputs: Sequence[str], outputs: Sequence[str]) -> Source:
        """Return a node of a file, with its attributes as plain values.

        Parameters
        ----------
        proto : NodeProto
        inputs, outputs : sequence of str
        """
        from onnx import helper

        name = proto.name or next((name for name in proto.output if name), "")
        first = next(iter(outputs), "")
        source = cls(name, operator(proto), proto.name, [*inputs], [*outputs], first)
        for attribute in proto.attribute:
            value = helper.get_attribute_value(attribute)
            if isinstance(value, list):
                value = tuple(v.decode() if isinstance(v, bytes) else v for v in value)
            source.attributes[attribute.name] = (
                value.decode() if isinstance(value, bytes) else value
            )
        return source

    @property
    def where(self) -> str:
        """The node in an error."""
        return where(self)

    def take(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - of several types
        """Return an attribute and use it up."""
        return self.attributes.pop(name, default)

    def input(self, index: int) -> str:
        """Return the name of an input, "" where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def refuse(self, why: str) -> GraphError:
        """Return the error that names the node."""
        return GraphError(f"{self.where}: {why}")

    def finish(self) -> None:
        """Raise if an attribute was not used."""
        for name, value in self.attributes.items():
            raise self.refuse(f"attribute {name}={value!r} is not supported")

    def take_only(self, name: str, default: Any, allowed: Any) -> None:  # noqa: ANN401
        """Use up an attribute of which one value is supported."""
        value = self.take(name, default)
        if value != allowed:
            raise self.refuse(f"attribute {name}={value!r} is not supported, only {allowed!r}")

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """Return axes counted from the front, of a tensor with `rank` of them."""
        if any(not -rank <= axis < rank for axis in axes):
            raise self.refuse(f"attribute axes={tuple(axes)} for a tensor of {rank} axes")
        return tuple(axis % rank for axis in axes)

    def check_one_output(self) -> None:
        """Raise if more than the first output is asked for."""
        if any(self.outputs[1:]):
            raise self.refuse(f"output {self.outputs[1]!r} is not supported")
