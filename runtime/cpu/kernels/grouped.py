"""Groups of rows over runs of lanes: blocks, rows of nonzeros and dense weights alike.

The kernel of every layer that no other one computes faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.cpu.calibration import PANEL_SHARE, ROW_LANES
from runtime.cpu.kernels.inputs import Source, along_pixels, in_place, skip_of
from runtime.cpu.kernels.items import Cut, cut
from runtime.cpu.kernels.pixel_runs import pixel_runs
from runtime.cpu.kernels.problem import Configuration, LayerCall, Problem, plain_halo
from runtime.cpu.kernels.runs import Runs, plane_runs
from runtime.cpu.kernels.schemes import from_first_level, scheme_of
from runtime.cpu.machine import Machine
from runtime.cpu.memory.window import Pooling
from runtime.cpu.program import Assembly
from runtime.cpu.weights.pack import pack
from runtime.cpu.weights.row_groups import Float32, Int64, Packed, Scheme
from runtime.errors import PlanError

# Entries behind the last column's offset: the kernels prefetch that far ahead.
OFFSET_PADDING = 64

CONFIGURATIONS = {
    "short tiles": Configuration(tile_vectors=12),
    "long tiles": Configuration(tile_vectors=96),
    "near prefetch": Configuration(prefetch=8),
    "far prefetch": Configuration(prefetch=32),
    "no prefetch": Configuration(prefetch=0),
    "one item a thread": Configuration(items=1),
    "many items": Configuration(items=16),
    "small panels": Configuration(panel_share=0.4 * PANEL_SHARE),
}


class Grouped:
    """Groups of up to 8 rows read each column once; what they cost follows from their heights."""

    name = "grouped"
    configurations: Mapping[str, Configuration] = CONFIGURATIONS

    def cost(self, problem: Problem, machine: Machine) -> float:
        """Return what all groups cost for each lane; see `Kernel`."""
        scheme, cost = scheme_of(problem, machine)
        direct = cost * problem.pixels * problem.inside(machine.vector)
        if scheme.form != "dense" and problem.is_rows:
            direct *= 1 + ROW_LANES / (problem.pixels * problem.lanes)
        return direct

    def weight_bytes(self, problem: Problem, machine: Machine) -> int:
        """Return the memory of the entries of all groups."""
        dense = self.scheme(problem, machine).form == "dense"
        return problem.dense_bytes if dense else 4 * problem.stored

    def halo(self, problem: Problem, machine: Machine) -> int:
        """Return the zeros by which vectors along pixels read their taps in place."""
        return plain_halo(problem, machine)

    def takes(self, pooling: Pooling, problem: Problem, machine: Machine) -> bool:
        """Return whether it pools: single rows go over many pixels at a time, and do not."""
        return self.scheme(problem, machine).form != "rows"

    def emit(self, program: Assembly, layer: LayerCall) -> None:
        """Add the call, after those that make what it reads."""
        source, runs = self.source(program, layer, apart=True)
        scheme = self.scheme(layer.problem, program.machine)
        packed = packed_groups(program, layer, scheme)
        made = cut(packed, runs, program.machine, source.image.channels, layer.configuration)
        fields = fields_of(program, layer, packed, made, source)
        program.call("convolution", layer.at, **fields)

    def scheme(self, problem: Problem, machine: Machine) -> Scheme:
        """Return how a weight is cut into groups."""
        return from_first_level(scheme_of(problem, machine)[0], problem, machine)

    def source(self, program: Assembly, layer: LayerCall, apart: bool) -> tuple[Source, Runs]:
        """Return what a layer reads, after the calls that make it, and the runs over it.

        Parameters
        ----------
        program : Assembly
        layer : LayerCall
        apart : bool
            Whether vectors of a run may lie apart.
        """
        vector = program.machine.vector
        if layer.y.lanes % vector == 0:
            source = in_place(program, layer)
            runs = pixel_runs(source.image, layer.y, source.window, vector, layer.pooling, apart)
        else:
            source = along_pixels(program, layer)
            runs = plane_runs(source.image, layer.y, source.window, vector)
        return source, runs


def packed_groups(program: Assembly, layer: LayerCall, scheme: Scheme) -> Packed:
    """Return the groups of a layer's weight, packed when they are first asked for."""
    weight, shape = layer.step.weight, layer.shape
    return program.packed(weight, ("groups", scheme, shape), lambda: pack(weight, scheme, shape))


def fields_of(
    program: Assembly, layer: LayerCall, packed: Packed, made: Cut, source: Source
) -> dict[str, Any]:
    """Return the fields of a call that computes groups of rows.

    Parameters
    ----------
    program : Assembly
    layer : LayerCall
    packed : Packed
        The groups of its weight.
    made : Cut
        How its work is cut.
    source : Source
        What it reads.
    """
    return {
        "x": source.image,
        "y": layer.y,
        "skip": skip_of(program, layer),
        **layer_arrays(packed, made, source.columns, program.bias(layer.step.bias)),
        "activation": program.activation(layer.step.activation),
        "tile_vectors": layer.configuration.tile_vectors,
        "prefetch": layer.configuration.prefetch,
        "parts_first": bool(made.parts_first),
        "scale": layer.scale,
    }


def layer_arrays(
    packed: Packed, made: Cut, columns: Int64, bias: Float32
) -> dict[str, NDArray[Any]]:
    """Return the arrays of a layer, as cpu/kernels/grouped/layer.h names them.

    Raises
    ------
    PlanError
        If the planes lie farther apart than 32 bits count.
    """
    if columns.size and int(columns.max()) >= 1 << 31:
        raise PlanError(
            "backend 'cpu': the input of a layer has more than 2**31 elements; use a smaller batch"
        )
    offsets = np.zeros(len(packed.columns) + OFFSET_PADDING, np.int32)
    np.take(columns.astype(np.int32), packed.columns, out=offsets[: len(packed.columns)])
    runs: Runs = made.runs
    return {
        "rows": packed.rows,
        "row_starts": packed.row_starts,
        "offsets": offsets,
        "offset_starts": packed.column_starts,
        "tap_starts": packed.tap_starts,
        "weights": packed.weights,
        "weight_starts": packed.weight_starts,
        "flags": packed.flags,
        "bias": bias,
        "runs": runs.table,
        "tap_sets": runs.tap_sets,
        "tap_set_starts": runs.tap_set_starts,
        "masks": runs.masks,
        "chunk_starts": made.chunk_starts,
        "panel_starts": made.panel_starts,
        "part_starts": made.part_starts,
    }
