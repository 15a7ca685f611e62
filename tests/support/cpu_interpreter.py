"""The kernels' interface in NumPy: what a packed layer means, to the letter and slowly.

Stands in for a compiled module. The arena is poisoned with NaN at every run, so that whatever is
read before it was written, and matters, shows.
"""

from __future__ import annotations

import numpy as np

from runtime import reference
from runtime.plan.steps import Activation

isa = "interpreter"
lanes = 16
SLACK = 64


class Program:
    """Collects operations, then runs them in order."""

    def __init__(self, arena_elements, threads, dtype="float32"):
        assert dtype == "float32"
        self.elements = arena_elements
        self.operations = []

    def poison(self):
        """Every run begins with an arena of NaN, whether asked for or not."""

    def run(self, inputs, outputs, seconds=None):
        arena = np.full(self.elements + 2 * SLACK, np.nan, np.float32)
        self.arena = arena[SLACK : SLACK + self.elements]
        self.inputs, self.outputs = inputs, outputs
        for step, operation in self.operations:
            operation()
            if seconds is not None and step >= 0:
                seconds[step] += 1

    def _add(self, step, operation):
        self.operations.append((step, operation))

    def _seen(self, view):
        """Return a view of the arena; every element of it must lie inside."""
        offset, shape, strides = view
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        assert offset >= 0
        assert last < self.elements, view
        return np.lib.stride_tricks.as_strided(self.arena[offset:], shape, [4 * s for s in strides])

    def copy_in(self, step, number, view):
        def operation():
            self._seen(view)[...] = self.inputs[number]

        self._add(step, operation)

    def copy_out(self, step, view, number):
        def operation():
            self.outputs[number][...] = self._seen(view)

        self._add(step, operation)

    def copy(self, step, x, y):
        def operation():
            self._seen(y)[...] = self._seen(x).copy()

        self._add(step, operation)

    def fill(self, step, y, value):
        def operation():
            self._seen(y)[...] = value

        self._add(step, operation)

    def gather(self, step, x, y, axes, indices, fill):
        def operation():
            taken = self._seen(x)
            for axis, index in zip(axes, indices, strict=True):
                taken = np.take(taken, np.maximum(index, 0), axis)
                taken[(slice(None),) * axis + (index < 0,)] = fill
            self._seen(y)[...] = taken

        self._add(step, operation)

    def softmax(self, step, x, y, axis):
        def operation():
            powers = np.exp(self._seen(x) - self._seen(x).max(axis, keepdims=True))
            self._seen(y)[...] = powers / powers.sum(axis, keepdims=True)

        self._add(step, operation)

    def mean(self, step, x, y):
        def operation():
            seen = self._seen(x)
            self._seen(y)[...] = seen.mean(tuple(range(2, seen.ndim)), keepdims=True)

        self._add(step, operation)

    def pool(self, step, op, x, y, kernel, strides, dilations, pads, counted):
        from runtime.plan.steps import Pool

        pool = Pool(
            name="", inputs=("x",), output="y", op=op, kernel=kernel, strides=strides,
            dilations=dilations, pads=pads, counted=counted,
        )  # fmt: skip

        def operation():
            self._seen(y)[...] = reference._pool(pool, y[1], [self._seen(x)])

        self._add(step, operation)

    def elementwise(self, step, op, operands, y, activation):
        functions = {**reference._ARITHMETIC, "Identity": lambda x: x}

        def operation():
            given = [self._seen(o) if isinstance(o, tuple) else o for o in operands]
            self._seen(y)[...] = activated(functions[op](*given), activation)

        self._add(step, operation)

    def scale_shift(self, step, x, scale, shift, y, activation):
        def operation():
            along = (1, -1) + (1,) * (len(x[1]) - 2)
            made = self._seen(x)
            made = made if scale is None else made * scale.reshape(along)
            made = made if shift is None else made + shift.reshape(along)
            self._seen(y)[...] = activated(made, activation)

        self._add(step, operation)

    def unfold(self, step, x, x_shape, u, origins, strides, rows, columns):
        def operation():
            height, width, pitch, batch = x_shape
            offset, planes, plane = x
            image = self._seen(
                (offset, (planes, height, width, batch), (plane, pitch * batch, batch, 1))
            )
            count = len(origins)
            for j, (y0, x0, beyond) in enumerate(origins.tolist()):
                for i in range(rows + beyond):
                    for k in range(columns):
                        y, z = y0 + i * strides[0], x0 + k * strides[1]
                        inside = 0 <= y < height and 0 <= z < width
                        to = u[0] + j * u[2] + (i * columns + k) * batch
                        into = self._seen((to, (planes, batch), (count * u[2], 1)))
                        into[...] = image[:, y, z] if inside else 0

        self._add(step, operation)

    def depthwise(self, step, x, y, halo, skip, window, layer, activation, configuration):
        kernel, strides, dilations, pads = window
        lanes, channels, height, width = y[1]
        multiplier = channels // x[1][1]

        def operation():
            for c, i, j in np.ndindex(channels, height, width):
                total = np.full(lanes, layer["bias"][c] if layer["bias"].size else 0, np.float64)
                for tap, (ky, kx) in enumerate(np.ndindex(*kernel)):
                    at = (
                        i * strides[0] + ky * dilations[0] - pads[0],
                        j * strides[1] + kx * dilations[1] - pads[1],
                    )
                    beside = lanes % globals()["lanes"] != 0 or 0 <= at[1] < x[1][3]
                    if not (0 <= at[0] < x[1][2] and beside):
                        continue
                    first = x[0] + np.dot((c // multiplier, *at), x[2][1:])
                    total += layer["weights"][c, tap] * self._seen((first, (lanes,), (1,)))
                to = np.dot((c, i, j), y[2][1:])
                if skip is not None:
                    total += self._seen(skip)[:, c, i, j]
                self._seen((y[0] + to, (lanes,), (1,)))[...] = activated(
                    total.astype(np.float32), activation
                )
            if halo:
                beside = (channels, halo * lanes)
                self._seen((y[0] - halo * lanes, beside, (y[2][1], 1)))[...] = 0
                beside = (channels, height, halo * lanes)
                after = y[0] + width * lanes
                self._seen((after, beside, (y[2][1], y[2][2], 1)))[...] = 0

        self._add(step, operation)

    def convolution(self, step, layer, x, y, skip, activation, configuration):
        assert (np.diff(layer["chunk_starts"]) > 0).all()
        assert layer["chunk_starts"][-1] == len(layer["runs"])
        assert (np.diff(layer["part_starts"]) > 0).all()
        assert (np.diff(layer["panel_starts"]) > 0).all()
        assert layer["panel_starts"][layer["part_starts"][-1]] == len(layer["flags"])

        def operation():
            for part in range(len(layer["part_starts"]) - 1):
                panels = layer["part_starts"][part : part + 2]
                for chunk in range(len(layer["chunk_starts"]) - 1):
                    self._item(layer, x, y, skip, activation, configuration, panels, chunk)

        self._add(step, operation)

    narrow = convolution

    def winograd(
        self, step, x, image, y, output, skip, batch, pads, arrays, activation, configuration
    ):
        from runtime.cpu.kernels.winograd import ROWS, _filter_transform

        def operation():
            height, width, pitch = image
            rows, columns, y_pitch, halo = output

            def seen(planes, height, width, pitch, before=0):
                offset, count, plane = planes
                strides = (plane, pitch * batch, batch, 1)
                return self._seen((offset - before, (count, height, width, batch), strides))

            given = np.pad(
                seen(x, height, width, pitch), ((0, 0), (pads[0], 9), (pads[1], 9), (0, 0))
            )
            g = _filter_transform()
            u = arrays["weights"].reshape(-1, 36, x[1] * ROWS)
            w = np.linalg.pinv(np.kron(g, g)) @ u.astype(np.float64)
            w = w.reshape(-1, 3, 3, x[1], ROWS).transpose(0, 4, 3, 1, 2).reshape(-1, x[1], 3, 3)
            made = np.zeros((y[1], rows, columns, batch))
            for i, j in np.ndindex(3, 3):
                taps = given[:, i : i + rows, j : j + columns]
                made += np.einsum("rc,cyxn->ryxn", w[: y[1], :, i, j], taps)
            made += arrays["bias"][:, None, None, None] if len(arrays["bias"]) else 0
            made += 0 if skip is None else seen(skip, rows, columns, y_pitch)
            seen(y, rows, columns, y_pitch)[...] = activated(made, activation)
            seen(y, rows, halo, y_pitch, -columns * batch)[...] = 0
            seen(y, 1, halo, y_pitch, halo * batch)[...] = 0

        self._add(step, operation)

    def rows(
        self, step, x, image, y, output, skip, batch, window, arrays, activation, configuration
    ):
        kernel, strides, dilations, pads = (window[i : i + 2] for i in (0, 2, 4, 6))
        width = configuration["channels"] * kernel[0] * kernel[1]
        panels = -(-x[1] // configuration["channels"])
        assert len(arrays["starts"]) == panels * y[1] + 1
        w = np.zeros((y[1], panels * width))
        for i in range(panels * y[1]):
            span = slice(*arrays["starts"][i : i + 2])
            assert (arrays["columns"][span] < width).all()
            w[i % y[1], i // y[1] * width + arrays["columns"][span]] = arrays["weights"][span]
        w = w[:, : x[1] * kernel[0] * kernel[1]].reshape(y[1], x[1], *kernel)
        pool = configuration["pool_y"], configuration["pool_x"]
        rows, columns, y_pitch, halo = output
        tall, wide = rows * pool[0], columns * pool[1]

        def operation():
            height, across, pitch = image

            def seen(planes, height, width, pitch, before=0):
                offset, count, plane = planes
                strides = (plane, pitch * batch, batch, 1)
                return self._seen((offset - before, (count, height, width, batch), strides))

            around = [(p, n * s + k * d) for p, n, s, k, d in zip(
                pads, (tall, wide), strides, kernel, dilations, strict=True
            )]  # fmt: skip
            given = np.pad(seen(x, height, across, pitch), ((0, 0), *around, (0, 0)))
            made = np.zeros((y[1], tall, wide, batch))
            for i, j in np.ndindex(*kernel):
                taps = given[:, i * dilations[0] :: strides[0], j * dilations[1] :: strides[1]]
                made += np.einsum("rc,cyxn->ryxn", w[:, :, i, j], taps[:, :tall, :wide])
            made += arrays["bias"][:, None, None, None] if len(arrays["bias"]) else 0
            made += 0 if skip is None else seen(skip, rows, columns, y_pitch)
            made = activated(made, activation) * configuration["scale"]
            cut = made.reshape(y[1], rows, pool[0], columns, pool[1], batch)
            made = cut.max((2, 4)) if configuration["combine"] == 1 else cut.sum((2, 4))
            seen(y, rows, columns, y_pitch)[...] = made
            seen(y, rows, halo, y_pitch, -columns * batch)[...] = 0
            seen(y, 1, halo, y_pitch, halo * batch)[...] = 0

        self._add(step, operation)

    def _item(self, layer, x, y, skip, activation, configuration, panels, chunk):
        runs = layer["runs"][slice(*layer["chunk_starts"][chunk : chunk + 2])]
        sums = {}
        for panel in range(*panels):
            for number, run in enumerate(runs.tolist()):
                for group in range(*layer["panel_starts"][panel : panel + 2]):
                    self._group(
                        layer, x, y, skip, activation, configuration, run, number, group, sums
                    )
        assert not sums, "rows that no group ends"

    def _group(self, layer, x, y, skip, activation, configuration, run, number, group, sums):
        source, target, lanes_, tap_set, mask, combine, *steps = run
        vector, lane = np.divmod(np.arange(lanes_), lanes)
        from_, to_ = (source + vector * steps[0] + lane, target + vector * steps[1] + lane)
        rows = layer["rows"][slice(*layer["row_starts"][group : group + 2])]
        taps = layer["tap_starts"][group]
        ranges = layer["tap_sets"].reshape(-1, 2)[
            slice(*layer["tap_set_starts"][tap_set : tap_set + 2])
        ]
        first = layer["offset_starts"][group]
        weights = layer["weights"][layer["weight_starts"][group] :][: taps[-1] * len(rows)]
        weights = weights.reshape(taps[-1], len(rows)).astype(np.float64)
        made = np.zeros((len(rows), lanes_))
        for a, b in ranges.tolist():
            for k in range(taps[a], taps[b]):
                at = x[0] + from_ + layer["offsets"][first + k]
                assert at.min() >= 0
                assert at.max() < self.elements
                made += np.outer(weights[k], self.arena[at])
        for i, row in enumerate(rows.tolist()):
            key = (number, row)
            if layer["flags"][group] & 1:
                assert key not in sums
                sums[key] = 0.0 + (layer["bias"][row] if len(layer["bias"]) else 0)
            sums[key] = sums[key] + made[i]
            if layer["flags"][group] & 2:
                to = y[0] + row * y[2] + to_
                assert to.min() >= 0
                value = sums.pop(key)
                if skip is not None:
                    value = value + self.arena[skip[0] + row * skip[2] + to_]
                value = activated(value, activation) * configuration["scale"]
                if mask >= 0:
                    assert len(layer["masks"]) >= mask + -(-lanes_ // 16) * 16
                    value = np.where(layer["masks"][mask : mask + lanes_], value, 0)
                held = self.arena[to]
                self.arena[to] = [value, np.maximum(held, value), held + value][combine]


def activated(x, activation):
    op, alpha, beta = activation
    return reference._activated(Activation(op, alpha, beta) if op else None, np.asarray(x))
