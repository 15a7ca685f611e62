"""Run a network part by part, over many samples, and hand out what flows between the parts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktools.calibration.affine import Place
from masktools.calibration.samples import Samples
from masktools.checkpoint import Checkpoint
from masktools.network.graph import Graph, Node, Value
from masktools.network.shapes import infer_shapes

Array = NDArray[Any]
Runner = Callable[[Mapping[str, Array]], Any]
# Takes a network and returns what runs it: inputs by name to its output, or outputs by name.
Run = Callable[[Checkpoint], Runner]

# Called with a layer's name once it is done.
Step = Callable[[str], None]

# Bytes of values that are kept in memory; all beyond lie in files.
MEMORY = 2**29


class Walk:
    """A network on its way from its inputs to its outputs, for many samples at once.

    Parameters
    ----------
    graph : Graph
        In the normal form. Not changed.
    samples : Samples
    pieces : sequence of ndarray of int
        Those of the samples that are run.
    run : callable
        Makes a network ready to run, as `runtime.prepare` does.

    Attributes
    ----------
    constants : dict of str to ndarray
        What the nodes read that are still to come; may be changed between two steps.

    Notes
    -----
    Values that nodes to come read are kept for all samples, in files beyond `MEMORY` bytes,
    which vanish at the end of the context; what runs at once is one piece.
    """

    def __init__(
        self, graph: Graph, samples: Samples, pieces: Sequence[NDArray[np.intp]], run: Run
    ) -> None:
        self.constants: dict[str, Array] = dict(graph.constants)
        self._graph, self._run, self._at = graph, run, 0
        self._open = all(value.shape[0] is None for value in graph.inputs)
        self._shelf = _Shelf(len(pieces))
        for number, piece in enumerate(pieces):
            for name, array in samples.read(piece).items():
                self._shelf.put(name, number, array)

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *_: object) -> None:
        self._shelf.close()

    def advance(self, end: int, also: Collection[str] = ()) -> None:
        """Run the nodes from where the walk stands up to one of them.

        Parameters
        ----------
        end : int
            The first node that is not run; the number of nodes for all of them.
        also : collection of str
            Values to keep although no node to come reads them; until the next call.
        """
        nodes = self._graph.nodes[self._at : end]
        later = {name for node in self._graph.nodes[end:] for name in node.inputs}
        later |= {value.name for value in self._graph.outputs} | set(also)
        made = [name for node in nodes for name in node.outputs if name in later]
        if made:
            for number, outputs in enumerate(self._made(nodes, made)):
                for name, array in outputs.items():
                    self._shelf.put(name, number, array)
        self._shelf.keep(later)
        self._at = max(self._at, end)

    def values(self, name: str) -> Iterator[Array]:
        """Yield a value that is kept, piece by piece; not to be changed."""
        for number in range(self._shelf.pieces):
            yield self._shelf.get(name, number)

    def outputs(self, node: Node) -> Iterator[Array]:
        """Yield the first output of a node whose inputs are kept, piece by piece."""
        for made in self._made((node,), [node.outputs[0]]):
            yield made[node.outputs[0]]

    def _made(self, nodes: Sequence[Node], wanted: Sequence[str]) -> Iterator[dict[str, Array]]:
        """Run some nodes on the values that are kept; yield what they make of each piece."""
        read = {name for node in nodes for name in node.inputs}
        given = sorted(read & self._shelf.names)
        ready: Runner | None = None
        for number in range(self._shelf.pieces):
            inputs = {name: self._shelf.get(name, number) for name in given}
            if ready is None:
                ready = self._run(Checkpoint(self._part(nodes, inputs, wanted)))
            yield named(ready(inputs), wanted)

    def _part(
        self, nodes: Sequence[Node], inputs: Mapping[str, Array], wanted: Sequence[str]
    ) -> Graph:
        """Return some nodes as a network of their own."""
        read = {name for node in nodes for name in node.inputs}
        border = tuple(
            Value(name, (None if self._open else len(array), *array.shape[1:]))
            for name, array in inputs.items()
        )
        constants = {name: array for name, array in self.constants.items() if name in read}
        return tapped(Graph(border, (), tuple(nodes), constants), wanted)


def side_by_side(
    graph: Graph,
    start: Mapping[str, Array],
    places: Mapping[str, Place],
    samples: Samples,
    pieces: Sequence[NDArray[np.intp]],
    run: Run,
) -> Iterator[tuple[str, Place, Walk, Walk]]:
    """Walk through the source network and the converted one, and halt at each layer.

    Parameters
    ----------
    graph : Graph
        The source.
    start : mapping of str to ndarray
        The constants of the converted network. Not changed.
    places : mapping of str to Place
        Of the layers to halt at, in the order of execution.
    samples, pieces, run
        See `Walk`.

    Yields
    ------
    str
        The layer.
    Place
    Walk
        Through the source: it keeps what the layer made.
    Walk
        Through the converted network: it keeps what the layer is going to read. Changes of its
        constants count from here on.
    """
    at = {node.name: number for number, node in enumerate(graph.nodes)}
    with Walk(graph, samples, pieces, run) as source, Walk(graph, samples, pieces, run) as network:
        network.constants = dict(start)
        for layer, place in places.items():
            source.advance(at[place.node.name] + 1, also=(place.output,))
            network.advance(at[place.node.name])
            yield layer, place, source, network


def tapped(graph: Graph, names: Sequence[str]) -> Graph:
    """Return the graph with some of its values as its outputs."""
    # A size that is not the same for two batches is the batch's.
    shapes, others = (
        infer_shapes(graph, {v.name: tuple(n or batch for n in v.shape) for v in graph.inputs})
        for batch in (2, 3)
    )
    return replace(
        graph,
        outputs=tuple(
            Value(
                name,
                tuple(
                    size if size == other else None
                    for size, other in zip(shapes[name], others[name], strict=True)
                ),
            )
            for name in names
        ),
    )


def named(outputs: Any, names: Sequence[str]) -> dict[str, Array]:  # noqa: ANN401
    """Return outputs by name, also where a network with one output returned it alone."""
    return dict(outputs) if isinstance(outputs, Mapping) else {names[0]: outputs}


class _Shelf:
    """Arrays by name and piece; those beyond `MEMORY` bytes in files, until it is closed."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self._places: dict[str, dict[int, Array | Path]] = {}
        self._held = self._written = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def names(self) -> set[str]:
        return set(self._places)

    def put(self, name: str, piece: int, array: Array) -> None:
        place: Array | Path = array
        if self._held + array.nbytes > MEMORY:
            self._folder = self._folder or tempfile.TemporaryDirectory(prefix="masktools-")
            place = Path(self._folder.name) / f"{self._written}.npy"
            self._written += 1
            np.save(place, array)
        else:
            self._held += array.nbytes
        self._places.setdefault(name, {})[piece] = place

    def get(self, name: str, piece: int) -> Array:
        place = self._places[name][piece]
        return np.load(place) if isinstance(place, Path) else place

    def close(self) -> None:
        self._places = {}
        if self._folder is not None:
            self._folder.cleanup()

    def keep(self, names: Collection[str]) -> None:
        for name in self._places.keys() - set(names):
            for place in self._places.pop(name).values():
                if isinstance(place, Path):
                    place.unlink()
                else:
                    self._held -= place.nbytes
