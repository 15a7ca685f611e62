"""Programs of the compiled kernels, and how to call them."""

from __future__ import annotations

import numpy as np

SIZE = 1 << 18


def chain(native, threads, steps=40):
    """Return a program that adds 1 to its input `steps` times, each time in another layout."""
    program = native.Program(2 * SIZE, threads)
    views = [(0, (512, 512), (512, 1)), (SIZE, (512, 512), (1, 512))]
    program.copy_in(-1, index=0, y=views[0])
    one = np.ones(1, np.float32)
    for step in range(steps):
        x, y = views[step % 2], views[(step + 1) % 2]
        program.elementwise(step, op="Add", operands=[x, one], y=y, activation=None)
    program.copy_out(-1, x=views[steps % 2], index=0)
    return program


def called(program, value):
    x = np.full((512, 512), value, np.float32)
    out = np.empty_like(x)
    program.run([x], [out])
    return out
