"""Programs of the compiled CPU backend: what they refuse, and how they share threads."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cpu_native import NO_ACTIVATION, module, variants
from paths import ROOT, SUPPORT
from programs import called, chain

pytestmark = pytest.mark.parametrize("variant", variants())

WHOLE = (0, (16,), (1,))
ROWS = (0, (2, 8), (8, 1))


@pytest.fixture
def program(variant):
    return module(variant).Program(16, 1)


BAD_VIEWS = {
    "beyond the end": ((1, (16,), (1,)), "outside the arena|elements 1 to 16"),
    "before the beginning": ((7, (9,), (-1,)), "elements -1 to 7"),
    "offset beyond": ((17, (0,), (1,)), "outside the arena"),
    "negative offset": ((-1, (1,), (1,)), "outside the arena"),
    "negative size": ((0, (-1,), (1,)), "impossible shape"),
    "product overflows": ((0, (2**40, 2**40), (0, 0)), "larger than any arena"),
    "reach overflows": ((0, (2,), (2**62,)), "impossible strides"),
    "sum of reaches": ((0, (2,) * 8, (4,) * 8), "elements 0 to 32"),
    "unequal lengths": ((0, (2, 2), (1,)), "shape and strides differ"),
    "too many axes": ((0, (1,) * 9, (1,) * 9), "at most 8 axes"),
}


@pytest.mark.parametrize("case", BAD_VIEWS)
def test_no_operation_reads_or_writes_outside_the_arena(program, case):
    view, message = BAD_VIEWS[case]
    pair = ((1, 1), (1, 1), (1, 1), (0, 0, 0, 0), (0, 0, 0, 0))
    adds = {
        "copy_in": lambda: program.copy_in(0, 0, view),
        "copy_out": lambda: program.copy_out(0, view, 0),
        "copy from": lambda: program.copy(0, view, WHOLE),
        "copy to": lambda: program.copy(0, WHOLE, view),
        "fill": lambda: program.fill(0, view, 0.0),
        "gather from": lambda: program.gather(0, view, WHOLE, [], [], 0.0),
        "gather to": lambda: program.gather(0, WHOLE, view, [], [], 0.0),
        "operand": lambda: program.elementwise(0, "Identity", [view], WHOLE, NO_ACTIVATION),
        "result": lambda: program.elementwise(0, "Identity", [WHOLE], view, NO_ACTIVATION),
        "pool from": lambda: program.pool(0, "MaxPool", view, ROWS, *pair),
        "pool to": lambda: program.pool(0, "MaxPool", ROWS, view, *pair),
        "mean from": lambda: program.mean(0, view, ROWS),
        "mean to": lambda: program.mean(0, ROWS, view),
        "softmax from": lambda: program.softmax(0, view, WHOLE, 0),
        "softmax to": lambda: program.softmax(0, WHOLE, view, 0),
    }
    for add in adds.values():
        with pytest.raises(ValueError, match=message):
            add()


def test_results_must_be_distinct_elements(program):
    for view in [(0, (2, 2), (1, 1)), (0, (3,), (0,)), (0, (3, 4), (3, 1)), (8, (2, 2), (1, -1))]:
        with pytest.raises(ValueError, match="several indices mean one element"):
            program.fill(0, view, 0.0)
    program.fill(0, (0, (3, 4), (4, 1)), 0.0)
    program.fill(0, (0, (4, 2), (1, 4)), 0.0)
    program.fill(0, (15, (2, 8), (-8, -1)), 0.0)


def test_shapes_must_fit(program):
    with pytest.raises(ValueError, match=r"shapes \(16\) and \(2, 8\) differ"):
        program.copy(0, WHOLE, ROWS)
    with pytest.raises(ValueError, match=r"\(16\) does not fit \(2, 8\)"):
        program.elementwise(0, "Add", [ROWS, WHOLE], ROWS, NO_ACTIVATION)
    with pytest.raises(ValueError, match="more axes"):
        program.elementwise(0, "Add", [ROWS, WHOLE], WHOLE, NO_ACTIVATION)
    with pytest.raises(ValueError, match="wrong number of operands"):
        program.elementwise(0, "Add", [ROWS], ROWS, NO_ACTIVATION)
    with pytest.raises(ValueError, match="does not fit"):
        program.scale_shift(0, ROWS, np.zeros(3, np.float32), None, ROWS, NO_ACTIVATION)
    with pytest.raises(ValueError, match="N, C"):
        program.mean(0, WHOLE, WHOLE)
    with pytest.raises(ValueError, match="impossible axis"):
        program.softmax(0, ROWS, ROWS, 2)


@pytest.mark.parametrize(
    ("axes", "indices", "message"),
    [
        ([0], [[0, 8]], "outside x"),
        ([1], [[0, -2]], "outside x"),
        ([1], [[0, 1, 2]], "as many indices"),
        ([2], [[0, 1]], "impossible axis"),
        ([1, 1], [[0, 1], [0, 1]], "impossible axis"),
        ([1], [], "axes and indices differ"),
        ([0], [[0, 1]], "not gathered"),
    ],
)
def test_gather_checks_every_index(program, axes, indices, message):
    chosen = [np.array(i, np.int32) for i in indices]
    with pytest.raises(ValueError, match=message):
        program.gather(0, ROWS, (0, (2, 2), (2, 1)), axes, chosen, 0.0)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("kernel", (0, 1)),
        ("strides", (1, 0)),
        ("dilations", (-1, 1)),
        ("pads", (0, -1, 0, 0)),
        ("counted", (0, 0, 0, 1 << 40)),
    ],
)
def test_impossible_windows_are_refused(program, member, value):
    window = {"kernel": (1, 1), "strides": (1, 1), "dilations": (1, 1), "pads": (0,) * 4}
    window = {**window, "counted": (0,) * 4, member: value}
    with pytest.raises(ValueError, match="impossible window"):
        program.pool(
            0,
            "MaxPool",
            (0, (1, 1, 4, 4), (16, 16, 4, 1)),
            (0, (1,) * 4, (1,) * 4),
            *window.values(),
        )


def test_unknown_names_and_kinds_are_refused(variant, program):
    native = module(variant)
    with pytest.raises(ValueError, match="no elementwise operation 'Pow'"):
        program.elementwise(0, "Pow", [WHOLE, WHOLE], WHOLE, NO_ACTIVATION)
    with pytest.raises(ValueError, match="no activation 'Tanh'"):
        program.elementwise(0, "Identity", [WHOLE], WHOLE, ("Tanh", 0, 0))
    with pytest.raises(ValueError, match="no pool 'LpPool'"):
        program.pool(0, "LpPool", ROWS, ROWS, (1, 1), (1, 1), (1, 1), (0,) * 4, (0,) * 4)
    with pytest.raises(TypeError, match="constant: expected a C-contiguous array of float32"):
        program.elementwise(0, "Add", [WHOLE, np.zeros(16)], WHOLE, NO_ACTIVATION)
    with pytest.raises(ValueError, match="expected dtype"):
        native.Program(16, 1, "float64")
    with pytest.raises(ValueError, match="impossible size"):
        native.Program(-1, 1)
    for threads in (0, -1, 5000):
        with pytest.raises(ValueError, match="threads"):
            native.Program(16, threads)
    with pytest.raises(ValueError, match="no step has the index -2"):
        program.fill(-2, WHOLE, 0.0)


def test_inputs_and_outputs_are_checked_at_each_call(program):
    program.copy_in(0, 0, ROWS)
    program.copy_out(0, ROWS, 0)
    with pytest.raises(ValueError, match="shapes"):
        program.copy_in(0, 0, WHOLE)
    x, y = np.zeros((2, 8), np.float32), np.empty((2, 8), np.float32)
    program.run([x], [y])
    for wrong in (x.astype(np.float64), x[:, ::2], x.T, [0.0]):
        with pytest.raises(TypeError, match="input 0: expected a C-contiguous array of float32"):
            program.run([wrong], [y])
    with pytest.raises(ValueError, match=r"input 0: shapes \(16\) and \(2, 8\) differ"):
        program.run([x.ravel()], [y])
    with pytest.raises(ValueError, match="expected 1 inputs, got 0"):
        program.run([], [y])
    y.flags.writeable = False
    with pytest.raises(ValueError, match=r"not writeable|read-only"):
        program.run([x], [y])


def test_a_refused_shape_is_not_copied(program):
    program.fill(0, WHOLE, 0.0)
    program.copy_in(0, 0, (0, (4,), (1,)))
    program.copy_out(0, WHOLE, 0)
    with pytest.raises(ValueError, match="shapes"):
        program.copy_in(0, 0, WHOLE)
    with pytest.raises(ValueError, match="shapes"):
        program.copy_out(0, (0, (4,), (1,)), 0)
    y = np.full(16, np.nan, np.float32)
    program.run([np.ones(4, np.float32)], [y])
    # Had the refused copies stayed, one would have read beyond x.
    assert y[:4].tolist() == [1] * 4
    assert y[4:].tolist() == [0] * 12


def test_a_program_that_was_called_takes_no_more_operations(program):
    program.run([], [])
    with pytest.raises(RuntimeError, match="takes no more operations"):
        program.fill(0, WHOLE, 0.0)


def test_seconds_are_added_for_each_step(program):
    program.fill(-1, WHOLE, 1.0)
    for step in (0, 2, 2):
        program.fill(step, WHOLE, 1.0)
    seconds = np.zeros(3)
    program.run([], [], seconds)
    once = seconds.copy()
    program.run([], [], seconds)
    assert (once[[0, 2]] > 0).all()
    assert once[1] == 0
    assert (seconds[[0, 2]] > once[[0, 2]]).all()
    with pytest.raises(ValueError, match="3 steps"):
        program.run([], [], np.zeros(2))
    with pytest.raises(TypeError, match="float64"):
        program.run([], [], np.zeros(3, np.float32))


def test_constants_may_be_gone_when_the_program_runs(program):
    constant = np.arange(16, dtype=np.float32)
    program.elementwise(0, "Identity", [constant], WHOLE, NO_ACTIVATION)
    constant[:] = np.nan
    program.copy_out(0, WHOLE, 0)
    out = np.empty(16, np.float32)
    program.run([], [out])
    assert out.tolist() == list(range(16))


# --- threads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_any_number_of_threads_gives_the_same(variant, threads):
    program = chain(module(variant), threads)
    for value in range(5):
        assert (called(program, value) == value + 40).all()


def test_callers_in_several_threads_share_a_program(variant):
    program = chain(module(variant), 2)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda value: called(program, value), range(24)))
    assert all((result == value + 40).all() for value, result in enumerate(results))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_starts_threads_of_its_own(variant):
    code = f"""
import os
from programs import called, chain
from cpu_native import module
program = chain(module({variant!r}), 2)
assert (called(program, 0) == 40).all()
child = os.fork()
if child == 0:
    assert (called(program, 1) == 41).all()
    del program
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert (called(program, 2) == 42).all()
"""
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    warning = [] if sys.version_info < (3, 12) else ["-W", "ignore::DeprecationWarning"]
    subprocess.run(
        [sys.executable, *warning, "-c", code],
        check=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_variants_have_programs_of_their_own(variant):
    native = module(variant)
    assert native.isa == variant
    assert native.lanes == {"avx512": 16, "avx2": 8, "portable": 4}[variant]
    assert native.fma_peak(0.0) > 0
