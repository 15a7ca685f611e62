"""The kernels' interface in NumPy: what a packed layer means, to the letter and slowly.

Stands in for a compiled module. The arena is poisoned with NaN at every run, so that whatever is
read before it was written, and matters, shows.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from runtime.cpu import native
from runtime.cpu.kernels.winograd import ROWS, _filter_transform
from runtime.plan.steps import Activation, Normalize, Pool
from runtime.reference import activations
from runtime.reference import steps as reference_steps

isa = "interpreter"
lanes = 16
SLACK = 64


class Program:
    """Collects operations by their fields, then runs them in order."""

    def __init__(self, arena_elements, threads, dtype="float32"):
        assert dtype == "float32"
        self.elements = arena_elements
        self.operations = []

    def __getattr__(self, method):
        """Return what adds an operation: a function of the fields, `_method` below."""
        operation = getattr(type(self), f"_{method}")

        def add(step, **fields):
            self.operations.append((step, method, lambda: operation(self, **fields)))

        return add

    def poison(self):
        """Every run begins with an arena of NaN, whether asked for or not."""

    def run(self, inputs, outputs, seconds=None):
        arena = np.full(self.elements + 2 * SLACK, np.nan, np.float32)
        self.arena = arena[SLACK : SLACK + self.elements]
        self.inputs, self.outputs = inputs, outputs
        for step, _, operation in self.operations:
            operation()
            if seconds is not None and step >= 0:
                seconds[step] += 1

    def _seen(self, view):
        """Return a view of the arena; every element of it must lie inside."""
        offset, shape, strides = view
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        assert offset >= 0
        assert last < self.elements, view
        return np.lib.stride_tricks.as_strided(self.arena[offset:], shape, [4 * s for s in strides])

    def _planes(self, image):
        """Return an image, (planes, height, width, lanes)."""
        at = SimpleNamespace(**image)
        shape = (at.planes, at.height, at.width, at.lanes)
        return self._seen((at.offset, shape, (at.plane, at.row, at.pixel, 1)))

    def _write(self, image, values):
        """Write an image, and zeros before its first row and after each."""
        self._planes(image)[...] = values
        at = SimpleNamespace(**image)
        beside = at.halo * at.pixel
        first = (at.offset - beside, (at.planes, beside), (at.plane, 1))
        self._seen(first)[...] = 0
        after = (at.offset + at.width * at.pixel, (at.planes, at.height, beside))
        self._seen((*after, (at.plane, at.row, 1)))[...] = 0

    def _finished(self, sums, bias, skip, activation):
        """Return sums with what follows them."""
        made = sums + (bias[:, None, None, None] if len(bias) else 0)
        return activated(made + (0 if skip is None else self._planes(skip)), activation)

    def _convolved(self, x, y, window, weights, size):
        """Return the sums of a convolution, (rows, *size, lanes)."""
        ends = [n * s + k * d for n, s, k, d in zip(
            size, window["strides"], window["kernel"], window["dilations"], strict=True
        )]  # fmt: skip
        around = [(before, after) for before, after in zip(window["pads"], ends, strict=True)]
        given = np.pad(self._planes(x), ((0, 0), *around, (0, 0)))
        made = np.zeros((y["planes"], *size, y["lanes"]))
        (sy, sx), (dy, dx) = window["strides"], window["dilations"]
        for i, j in np.ndindex(*window["kernel"]):
            taps = given[:, i * dy :: sy, j * dx :: sx][:, : size[0], : size[1]]
            made += np.einsum("rc,cyxn->ryxn", weights[:, :, i, j], taps)
        return made

    # --- steps without weights -----------------------------------------------------------------

    def _copy_in(self, index, y):
        self._seen(y)[...] = self.inputs[index]

    def _copy_out(self, x, index):
        self.outputs[index][...] = self._seen(x)

    def _copy(self, x, y):
        self._seen(y)[...] = self._seen(x).copy()

    def _fill(self, y, value):
        self._seen(y)[...] = value

    def _gather(self, x, y, axes, indices, fill):
        taken = self._seen(x)
        for axis, index in zip(axes, indices, strict=True):
            taken = np.take(taken, np.maximum(index, 0), axis)
            taken[(slice(None),) * axis + (index < 0,)] = fill
        self._seen(y)[...] = taken

    def _interpolate(self, x, y, axis, taps, indices, weights):
        seen = self._seen(x)
        made = np.zeros(y[1], np.float32)
        along = (-1,) + (1,) * (seen.ndim - axis - 1)
        for t in range(taps):
            made += np.take(seen, indices[t::taps], axis) * weights[t::taps].reshape(along)
        self._seen(y)[...] = made

    def _softmax(self, x, y, axis, logarithm):
        below = self._seen(x) - self._seen(x).max(axis, keepdims=True)
        sums = np.exp(below).sum(axis, keepdims=True)
        self._seen(y)[...] = below - np.log(sums) if logarithm else np.exp(below) / sums

    def _mean(self, x, y, pixels):
        seen = self._seen(x)
        self._seen(y)[...] = seen.sum(tuple(range(2, seen.ndim)), keepdims=True) / pixels

    def _reduce(self, op, x, y):
        axes = tuple(axis for axis, n in enumerate(y[1]) if n == 1)
        made = reference_steps.REDUCTIONS[op](self._seen(x), axis=axes, keepdims=True)
        self._seen(y)[...] = made

    def _normalize(self, x, y, axis, epsilon, scale, shift):
        scale, shift = (c.reshape(x[1][axis:]) if c.size else None for c in (scale, shift))
        how = {"axis": axis, "epsilon": epsilon, "scale": scale, "shift": shift}
        step = Normalize(name="", inputs=("x",), output="y", **how)
        self._seen(y)[...] = reference_steps.normalize(step, y[1], [self._seen(x)])

    def _matmul(self, a, b, y):
        self._seen(y)[...] = self._seen(a) @ self._seen(b)

    def _pool(self, op, x, y, window, pads_after, counted):
        window = {**window, "pads": (*window["pads"], *pads_after)}
        pool = Pool(name="", inputs=("x",), output="y", op=op, counted=counted, **window)
        self._seen(y)[...] = reference_steps.pool(pool, y[1], [self._seen(x)])

    def _elementwise(self, op, operands, y, activation):
        functions = {
            **reference_steps.ARITHMETIC,
            "Identity": lambda x: x,
            "Where": lambda c, a, b: np.where(c != 0, a, b),
        }
        given = [self._seen(o) if isinstance(o, tuple) else o for o in operands]
        self._seen(y)[...] = activated(functions[op](*given), activation)

    def _scale_shift(self, x, scale, shift, y, activation):
        along = (1, -1) + (1,) * (len(x[1]) - 2)
        made = self._seen(x)
        made = made if scale is None else made * scale.reshape(along)
        made = made if shift is None else made + shift.reshape(along)
        self._seen(y)[...] = activated(made, activation)

    # --- layers --------------------------------------------------------------------------------

    def _unfold(self, x, y, origins, strides, rows):
        image, batch = self._planes(x), x["lanes"]
        _, height, width, _ = image.shape
        columns, count = y["row"] // batch, len(origins)
        for j, (y0, x0, beyond) in enumerate(origins.tolist()):
            for i, k in np.ndindex(rows + beyond, columns):
                at = y0 + i * strides[0], x0 + k * strides[1]
                inside = 0 <= at[0] < height and 0 <= at[1] < width
                to = y["offset"] + j * y["plane"] + (i * columns + k) * batch
                into = self._seen((to, (len(image), batch), (count * y["plane"], 1)))
                into[...] = image[:, at[0], at[1]] if inside else 0

    def _depthwise(self, x, y, skip, window, weights, bias, activation, strips, parts):
        """Taps beside the image are read where vectors run along pixels: zeros lie there."""
        channels, height, width, count = (y[n] for n in ("planes", "height", "width", "lanes"))
        multiplier, beside = channels // x["planes"], count % lanes != 0
        sums = np.zeros((channels, height, width, count))
        for tap, (ky, kx) in enumerate(np.ndindex(*window["kernel"])):
            for i, j in np.ndindex(height, width):
                v = i * window["strides"][0] + ky * window["dilations"][0] - window["pads"][0]
                h = j * window["strides"][1] + kx * window["dilations"][1] - window["pads"][1]
                if 0 <= v < x["height"] and (beside or 0 <= h < x["width"]):
                    first = x["offset"] + v * x["row"] + h * x["pixel"]
                    taken = self._seen((first, (x["planes"], count), (x["plane"], 1)))
                    sums[:, i, j] += weights[:, tap, None] * np.repeat(taken, multiplier, axis=0)
        self._write(y, self._finished(sums, bias, skip, activation))

    def _winograd(self, x, y, skip, window, weights, bias, activation, vectors, row_blocks, parts):
        g, channels = _filter_transform(), x["planes"]
        u = weights.reshape(-1, 36, channels * ROWS)
        w = np.linalg.pinv(np.kron(g, g)) @ u.astype(np.float64)
        w = w.reshape(-1, 3, 3, channels, ROWS).transpose(0, 4, 3, 1, 2)
        w = w.reshape(-1, channels, 3, 3)[: y["planes"]]
        sums = self._convolved(x, y, window, w, (y["height"], y["width"]))
        self._write(y, self._finished(sums, bias, skip, activation))

    def _rows(
        self, x, y, skip, window, weights, columns, starts, bias, activation, combine, pool,
        scale, tile, copies, panel_channels, parts,
    ):  # fmt: skip
        taps, rows = np.prod(window["kernel"]), y["planes"]
        width, panels = panel_channels * taps, -(-x["planes"] // panel_channels)
        assert len(starts) == panels * rows + 1
        w = np.zeros((rows, panels * width))
        for i in range(panels * rows):
            span = slice(*starts[i : i + 2])
            assert (columns[span] < width).all()
            w[i % rows, i // rows * width + columns[span]] = weights[span]
        w = w[:, : x["planes"] * taps].reshape(rows, x["planes"], *window["kernel"])
        size = y["height"] * pool[0], y["width"] * pool[1]
        sums = self._convolved(x, y, window, w, size)
        made = self._finished(sums, bias, skip, activation) * scale
        cut = made.reshape(rows, y["height"], pool[0], y["width"], pool[1], -1)
        self._write(y, cut.max((2, 4)) if combine == "max" else cut.sum((2, 4)))

    def _convolution(self, **fields):
        layer = SimpleNamespace(**fields)
        for starts in (layer.chunk_starts, layer.part_starts, layer.panel_starts):
            assert (np.diff(starts) > 0).all()
        assert layer.chunk_starts[-1] == len(layer.runs)
        assert layer.panel_starts[layer.part_starts[-1]] == len(layer.flags)
        for part in range(len(layer.part_starts) - 1):
            panels = layer.part_starts[part : part + 2]
            for chunk in range(len(layer.chunk_starts) - 1):
                self._item(layer, panels, layer.chunk_starts[chunk : chunk + 2])

    _narrow = _convolution

    def _item(self, layer, panels, chunk):
        sums = {}
        for panel in range(*panels):
            for number in range(*chunk):
                for group in range(*layer.panel_starts[panel : panel + 2]):
                    self._group(layer, number, group, sums)
        assert not sums, "rows that no group ends"

    def _group(self, layer, number, group, sums):
        run = {name: int(layer.runs[number][name]) for name in layer.runs.dtype.names}
        vector, lane = np.divmod(np.arange(run["lanes"]), lanes)
        from_ = run["input"] + vector * run["input_step"] + lane
        to_ = run["output"] + vector * run["output_step"] + lane
        rows = layer.rows[slice(*layer.row_starts[group : group + 2])]
        taps, first = layer.tap_starts[group], layer.offset_starts[group]
        sets = slice(*layer.tap_set_starts[run["tap_set"] : run["tap_set"] + 2])
        weights = layer.weights[layer.weight_starts[group] :][: taps[-1] * len(rows)]
        weights = weights.reshape(taps[-1], len(rows)).astype(np.float64)
        made = np.zeros((len(rows), run["lanes"]))
        for a, b in layer.tap_sets.reshape(-1, 2)[sets].tolist():
            for k in range(taps[a], taps[b]):
                at = layer.x["offset"] + from_ + layer.offsets[first + k]
                assert at.min() >= 0
                assert at.max() < self.elements
                made += np.outer(weights[k], self.arena[at])
        flags = native.numbers("flags")
        for row, values in zip(rows.tolist(), made, strict=True):
            key = (number, row)
            if layer.flags[group] & flags["first"]:
                assert key not in sums
                sums[key] = 0.0 + (layer.bias[row] if len(layer.bias) else 0)
            sums[key] = sums[key] + values
            if layer.flags[group] & flags["last"]:
                self._end(layer, run, row, to_, sums.pop(key))

    def _end(self, layer, run, row, to_, value):
        """Write the sums of a row."""
        to = layer.y["offset"] + row * layer.y["plane"] + to_
        assert to.min() >= 0
        if layer.skip is not None:
            value = value + self.arena[layer.skip["offset"] + row * layer.skip["plane"] + to_]
        value = activated(value, layer.activation) * layer.scale
        mask, held, combine = run["mask"], self.arena[to], native.numbers("combine")
        if mask >= 0:
            assert len(layer.masks) >= mask + -(-len(to) // 16) * 16
            value = np.where(layer.masks[mask : mask + len(to)], value, 0)
        met = {"store": value, "max": np.maximum(held, value), "add": held + value}
        self.arena[to] = met[next(n for n in combine if combine[n] == run["combine"])]


def activated(x, activation):
    return activations.activated(Activation(**activation) if activation else None, np.asarray(x))
