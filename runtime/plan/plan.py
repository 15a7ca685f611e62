"""Turn a checkpoint into a plan: its steps in order, with activations and skip adds fused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from masktools import limits
from masktools.checkpoint import Checkpoint
from masktools.errors import GraphError
from masktools.forks import unlocked_property
from masktools.network.fixing import fixed, open_sizes, sizes_of
from masktools.network.graph import Value
from masktools.network.normal_form import check_graph
from masktools.network.shapes import shapes_of
from runtime.errors import PlanError
from runtime.plan.bounds import check_cost
from runtime.plan.lifetimes import lifetimes, most_at_once
from runtime.plan.lowering import lower
from runtime.plan.lowering.context import Context
from runtime.plan.simplify import simplified
from runtime.plan.steps import Step

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """An immutable program that knows nothing of a device.

    Parameters
    ----------
    inputs, outputs : tuple of Value
        The network's border.
    results : mapping of str to str
        The value that each output is.
    steps : tuple of Step
        In the order of execution.
    shapes : mapping of str to tuple of int or None
        Of every value; None, on axis 0 alone, is the batch.
    source : Checkpoint or None
        What it was made of, where inputs have open sizes besides the batch: the plan is for
        `sizes`, and `at` makes one for others.
    sizes : mapping of str to int
        The open sizes by name; empty where there are none.
    base : Plan or None
        The plan that `at` made this one of: both have the same weights.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    results: Mapping[str, str]
    steps: tuple[Step, ...]
    shapes: Mapping[str, tuple[int | None, ...]]
    source: Checkpoint | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    base: Plan | None = None

    def at(self, shapes: Mapping[str, Shape]) -> Plan:
        """Return the plan for inputs of some shapes: this one where no size but the batch is open.

        Raises
        ------
        PlanError
            If the network does not work at that size: naming the node and the shapes.
        """
        if self.source is None:
            return self
        try:
            sizes = sizes_of(self.inputs, shapes)
            return self if sizes == self.sizes else replace(_sized(self.source, sizes), base=self)
        except (GraphError, PlanError) as error:
            said = ", ".join(f"{v.name} of shape {tuple(shapes[v.name])}" for v in self.inputs)
            raise PlanError(f"the network cannot run on {said}: {error}") from error

    def shape(self, value: str, batch: int) -> Shape:
        """Return the shape of a value when `batch` samples are run."""
        return tuple(batch if n is None else n for n in self.shapes[value])

    def batch(self, shapes: Mapping[str, Shape]) -> int:
        """Return how many samples inputs of these shapes hold; 1 where none leaves it open."""
        open_ = [shapes[value.name][0] for value in self.inputs if value.shape[0] is None]
        return open_[0] if open_ else 1

    @unlocked_property
    def readers(self) -> Mapping[str, Sequence[int]]:
        """For each value, the steps that read it, once for each time that they do."""
        readers: defaultdict[str, list[int]] = defaultdict(list)
        for at, step in enumerate(self.steps):
            for name in step.inputs:
                readers[name].append(at)
        return readers

    @unlocked_property
    def dead_after(self) -> tuple[tuple[str, ...], ...]:
        """For each step, the values that nothing reads after it."""
        spans, _ = lifetimes(self, size=lambda value: 0, shares=lambda step: False)
        dead: list[list[str]] = [[] for _ in self.steps]
        for value, span in spans.items():
            if span.last < len(self.steps):
                dead[span.last].append(value)
        return tuple(tuple(values) for values in dead)

    def peak_bytes(self, batch: int, itemsize: int = 4) -> int:
        """Return the most memory that values take at once, inputs and outputs included.

        Parameters
        ----------
        batch : int
        itemsize : int, default 4
            Bytes of a number.

        Returns
        -------
        int
            Bytes; a Reshape shares the memory of what it reads.
        """
        spans, _ = lifetimes(
            self,
            size=lambda value: prod(self.shape(value, batch)) * itemsize,
            shares=lambda step: True,
        )
        return most_at_once(spans.values())


def build(checkpoint: Checkpoint) -> Plan:
    """Return the plan of a checkpoint.

    Nodes that change nothing are left out. A convolution or product takes in the skip add and the
    activation that follow it, where nothing else reads what lies between; a scale takes in the
    shift after it.

    Parameters
    ----------
    checkpoint : Checkpoint
        As `masktools.checkpoint.read` returns it. Not changed; the plan shares its arrays.

    Returns
    -------
    Plan

    Raises
    ------
    PlanError
        If shapes do not fit, a node mixes the samples of a batch, or the network costs more than
        `masktools.limits` allows.

    Notes
    -----
    Where sizes of inputs are open besides the batch, the plan is for the checkpoint's examples of
    them, and `Plan.at` gives the plans for others.
    """
    sizes = open_sizes(checkpoint.graph.inputs)
    return _sized(checkpoint, sizes) if sizes else _built(checkpoint)


def _sized(checkpoint: Checkpoint, sizes: Mapping[str, int]) -> Plan:
    """Return the plan of a network with open sizes, for some of these."""
    graph = checkpoint.graph
    try:
        numbers = fixed(graph, sizes)
        check_graph(numbers, {f"{n}.weight": w.layout.shape for n, w in checkpoint.sparse.items()})
    except GraphError as error:
        raise PlanError(str(error)) from error
    plan = _built(replace(checkpoint, graph=numbers))
    return replace(plan, inputs=graph.inputs, outputs=graph.outputs, source=checkpoint, sizes=sizes)


def _built(checkpoint: Checkpoint) -> Plan:
    graph = checkpoint.graph
    shapes = _shapes(checkpoint)
    same: dict[str, str] = {}
    steps: list[Step] = []
    context = Context(checkpoint, shapes)
    for node in graph.nodes:
        made = lower(context, node)
        if not made:
            same[node.outputs[0]] = same.get(node.inputs[0], node.inputs[0])
        steps += [replace(s, inputs=tuple(same.get(v, v) for v in s.inputs)) for s in made]
    results = {value.name: same.get(value.name, value.name) for value in graph.outputs}
    kept = simplified(steps, set(results.values()), shapes)
    values = {v.name for v in graph.inputs} | {step.output for step in kept}
    plan = Plan(
        graph.inputs,
        graph.outputs,
        results,
        tuple(kept),
        {name: shape for name, shape in shapes.items() if name in values},
    )
    check_cost(plan)
    return plan


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int | None, ...]]:
    """Return the shape of every value, with None where it follows the batch.

    Two batches are tried: an axis that differs between them is the batch, and must be the first.
    """
    graph = checkpoint.graph
    weights = {f"{layer}.weight": w.layout.shape for layer, w in checkpoint.sparse.items()}
    try:
        tried = [shapes_of(graph, weights, batch) for batch in (2, 3)]
    except GraphError as error:
        raise PlanError(str(error)) from error
    shapes: dict[str, tuple[int | None, ...]] = {}
    for name, shape in tried[0].items():
        other = tried[1][name]
        if shape[1:] != other[1:] or shape[:1] not in (other[:1], (2,)):
            raise PlanError(f"value {name!r} mixes the samples of a batch: {shape}, {other}")
        shapes[name] = shape if shape == other else (None, *shape[1:])
        # Of one sample: the size at the batch 3 less that at 2, or all where the batch is fixed.
        numbers = prod(other) - prod(shape) or prod(shape)
        if numbers > limits.VALUE:
            raise PlanError(
                f"value {name!r} of shape {shapes[name]} has {numbers} numbers in a sample; "
                f"{limits.VALUE} are supported"
            )
    for value in graph.outputs:
        if value.shape != shapes[value.name]:
            raise PlanError(
                f"output {value.name!r}: expected shape {value.shape}, got {shapes[value.name]}"
            )
    return shapes
