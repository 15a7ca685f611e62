"""Layers by minimal filtering, run alone in an arena of NaN, and by definition."""

from __future__ import annotations

import numpy as np
from cpu_native import activation as named
from cpu_native import image

from runtime.cpu.kernels.winograd import transformed
from runtime.cpu.memory.window import Window


def direct(x, w, pads, out):
    """Convolve (C, H, W, N) in float64, by definition."""
    top, left = pads
    wide = np.pad(x.astype(np.float64), ((0, 0), (top, 9), (left, 9), (0, 0)))
    taps = [
        np.einsum("rc,cyxn->ryxn", w[:, :, i, j].astype(np.float64), wide[:, i:, j:][:, :h, :v])
        for i, j in np.ndindex(3, 3)
        for h, v in [out]
    ]
    return np.sum(taps, axis=0)


def run(module, x, w, pads, out, halo=0, bias=None, skip=None, activation="", **configuration):
    """Run one layer in an arena of NaN; return its output, and all that lies around it."""
    channels, height, width, batch = x.shape
    rows = len(w)
    pitch = out[1] + halo
    area = out[0] * pitch * batch
    x_plane, y_plane = height * width * batch + 3, area + halo * batch + 5
    y_at = channels * x_plane + halo * batch
    skip_at = y_at + rows * y_plane
    program = module.Program(skip_at + rows * y_plane, 2)
    x_view = (0, x.shape, (x_plane, width * batch, batch, 1))
    y_strides = (y_plane, pitch * batch, batch, 1)
    whole = np.full((rows, y_plane), np.nan, np.float32)
    every = (y_at - halo * batch, whole.shape, (y_plane, 1))
    given = [x, whole] + ([] if skip is None else [skip])
    program.copy_in(-1, index=0, y=x_view)
    program.copy_in(-1, index=1, y=every)
    if skip is not None:
        program.copy_in(-1, index=2, y=(skip_at, skip.shape, y_strides))
    program.winograd(
        0,
        x=image(0, channels, x_plane, (height, width), batch, width, 0),
        y=image(y_at, rows, y_plane, out, batch, pitch, halo),
        skip=None if skip is None else image(skip_at, rows, y_plane, out, batch, pitch, 0),
        window=Window((3, 3), pads=pads).fields,
        weights=transformed(w),
        bias=np.empty(0, np.float32) if bias is None else bias,
        activation=named(activation),
        **{"vectors": 2, "row_blocks": 4, "parts": 1, **configuration},
    )
    program.copy_out(-1, x=every, index=0)
    found = np.empty_like(whole)
    program.run(given, [found], None)
    before, body, after = np.split(found, [halo * batch, halo * batch + area], axis=1)
    body = body.reshape(rows, out[0], pitch, batch)
    assert not before.any()
    assert not body[:, :, out[1] :].any()
    assert np.isnan(after).all()
    return body[:, :, : out[1]]


TOLERANCE = 1e-5


def drawn(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def close(got, wanted):
    return np.abs(got - wanted).max() <= TOLERANCE * max(np.abs(wanted).max(), 1)
