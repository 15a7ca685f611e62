"""Programs of the compiled CPU backend: what they refuse, and how they share threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cpu_interpreter
import numpy as np
import pytest
from cpu_native import activation, image, module, variants
from paths import ROOT, SUPPORT
from programs import called, chain

from runtime.cpu.kernels import bfloat16, grouped, winograd
from runtime.cpu.kernels.items import cut
from runtime.cpu.kernels.runs import plane_runs
from runtime.cpu.machine import Machine
from runtime.cpu.memory.layout import Form, View, as_image
from runtime.cpu.memory.window import Window
from runtime.cpu.weights import row_groups
from runtime.cpu.weights.pack import pack
from runtime.cpu.weights.row_groups import Scheme, shape_of

pytestmark = pytest.mark.parametrize("variant", variants())

EMPTY = np.empty(0, np.float32)
WHOLE = (0, (16,), (1,))
ROWS = (0, (2, 8), (8, 1))
TAPS = ("kernel", "strides", "dilations", "pads")


def groups(vector):
    """Return the fields of a layer of one row, one column and one run, as groups."""
    weight = np.ones((1, 1), np.float32)
    y = as_image(View.of_form(0, Form(1, 1, 2, 2, 1), (1, 1, 2, 2)))
    packed = pack(weight, Scheme("dense"), shape_of(weight))
    made = cut(packed, plane_runs(y, y, Window((1, 1)), vector), Machine(vector, 1), 1)
    arrays = grouped.layer_arrays(packed, made, np.zeros(1, np.int64), np.empty(0, np.float32))
    how = {"scale": 1.0, "tile_vectors": 1, "prefetch": 0, "parts_first": False}
    return {**arrays, "activation": None, **how}


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
    pool = {"op": "MaxPool", "window": Window((1, 1)).fields, "pads_after": (0, 0)}
    pool["counted"] = (0,) * 4
    same = {"op": "Identity", "activation": None}
    none = {"axes": [], "indices": [], "fill": 0.0}
    plain = {"axis": 0, "epsilon": 0.1, "scale": EMPTY, "shift": EMPTY}
    taps = {"axis": 0, "taps": 1, "indices": np.arange(16, dtype=np.int32)}
    taps["weights"] = np.ones(16, np.float32)
    adds = {
        "copy_in": lambda: program.copy_in(0, index=0, y=view),
        "copy_out": lambda: program.copy_out(0, x=view, index=0),
        "copy from": lambda: program.copy(0, x=view, y=WHOLE),
        "copy to": lambda: program.copy(0, x=WHOLE, y=view),
        "fill": lambda: program.fill(0, y=view, value=0.0),
        "gather from": lambda: program.gather(0, x=view, y=WHOLE, **none),
        "interpolate from": lambda: program.interpolate(0, x=view, y=WHOLE, **taps),
        "interpolate to": lambda: program.interpolate(0, x=WHOLE, y=view, **taps),
        "gather to": lambda: program.gather(0, x=WHOLE, y=view, **none),
        "operand": lambda: program.elementwise(0, operands=[view], y=WHOLE, **same),
        "result": lambda: program.elementwise(0, operands=[WHOLE], y=view, **same),
        "pool from": lambda: program.pool(0, x=view, y=ROWS, **pool),
        "pool to": lambda: program.pool(0, x=ROWS, y=view, **pool),
        "mean from": lambda: program.mean(0, x=view, y=ROWS, pixels=1),
        "mean to": lambda: program.mean(0, x=ROWS, y=view, pixels=1),
        "reduce from": lambda: program.reduce(0, op="Sum", x=view, y=ROWS),
        "reduce to": lambda: program.reduce(0, op="Sum", x=ROWS, y=view),
        "matmul from": lambda: program.matmul(0, a=view, b=ROWS, y=ROWS),
        "matmul by": lambda: program.matmul(0, a=ROWS, b=view, y=ROWS),
        "matmul to": lambda: program.matmul(0, a=ROWS, b=ROWS, y=view),
        "normalize from": lambda: program.normalize(0, x=view, y=ROWS, **plain),
        "normalize to": lambda: program.normalize(0, x=ROWS, y=view, **plain),
        "softmax from": lambda: program.softmax(0, x=view, y=WHOLE, axis=0, logarithm=False),
        "softmax to": lambda: program.softmax(0, x=WHOLE, y=view, axis=0, logarithm=False),
    }
    for add in adds.values():
        with pytest.raises(ValueError, match=message):
            add()


def test_results_must_be_distinct_elements(program):
    for view in [(0, (2, 2), (1, 1)), (0, (3,), (0,)), (0, (3, 4), (3, 1)), (8, (2, 2), (1, -1))]:
        with pytest.raises(ValueError, match="several indices mean one element"):
            program.fill(0, y=view, value=0.0)
    program.fill(0, y=(0, (3, 4), (4, 1)), value=0.0)
    program.fill(0, y=(0, (4, 2), (1, 4)), value=0.0)
    program.fill(0, y=(15, (2, 8), (-8, -1)), value=0.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"axis": 2}, "impossible axis"),
        ({"axis": 0}, "differ along another axis"),
        ({"indices": [0, 8]}, "outside x"),
        ({"indices": [0, -1]}, "outside x"),
        ({"indices": [0]}, "as many taps and weights"),
        ({"weights": [1]}, "as many taps and weights"),
        ({"taps": 2}, "as many taps and weights"),
        ({"taps": 0}, "as many taps and weights"),
        ({"x": WHOLE}, "differ in rank"),
    ],
)
def test_interpolation_checks_every_tap(program, changed, message):
    y = (0, (2, 2), (8, 1))
    fields = {"x": ROWS, "y": y, "axis": 1, "taps": 1, "indices": [0, 1], "weights": [1, 1]}
    fields |= changed
    fields["indices"] = np.array(fields["indices"], np.int32)
    fields["weights"] = np.array(fields["weights"], np.float32)
    with pytest.raises(ValueError, match=message):
        program.interpolate(0, **fields)


def test_shapes_must_fit(program):
    with pytest.raises(ValueError, match=r"shapes \(16\) and \(2, 8\) differ"):
        program.copy(0, x=WHOLE, y=ROWS)
    with pytest.raises(ValueError, match=r"\(16\) does not fit \(2, 8\)"):
        program.elementwise(0, op="Add", operands=[ROWS, WHOLE], y=ROWS, activation=None)
    with pytest.raises(ValueError, match="more axes"):
        program.elementwise(0, op="Add", operands=[ROWS, WHOLE], y=WHOLE, activation=None)
    with pytest.raises(ValueError, match="wrong number of operands"):
        program.elementwise(0, op="Add", operands=[ROWS], y=ROWS, activation=None)
    three = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="does not fit"):
        program.scale_shift(0, x=ROWS, scale=three, shift=None, y=ROWS, activation=None)
    with pytest.raises(ValueError, match="N, C"):
        program.mean(0, x=WHOLE, y=WHOLE, pixels=1)
    with pytest.raises(ValueError, match="differ in their axes"):
        program.reduce(0, op="Sum", x=ROWS, y=WHOLE)
    with pytest.raises(ValueError, match=r"reduce: shapes \(2, 1\) and \(3, 1\) differ"):
        program.reduce(0, op="Sum", x=ROWS, y=(0, (3, 1), (1, 1)))
    with pytest.raises(ValueError, match="one rank, 2 or more"):
        program.matmul(0, a=WHOLE, b=WHOLE, y=WHOLE)
    with pytest.raises(ValueError, match=r"matmul: b: shapes \(8, 3\) and \(8, 2\) differ"):
        program.matmul(0, a=ROWS, b=(0, (8, 2), (2, 1)), y=(0, (2, 3), (3, 1)))
    with pytest.raises(ValueError, match=r"matmul: a: shapes .* differ"):
        program.matmul(0, a=ROWS, b=(0, (8, 2), (2, 1)), y=(0, (3, 2), (2, 1)))
    with pytest.raises(ValueError, match="normalize: impossible axis"):
        program.normalize(0, x=ROWS, y=ROWS, axis=2, epsilon=0.1, scale=EMPTY, shift=EMPTY)
    with pytest.raises(ValueError, match="scale and shift: expected 8 numbers"):
        program.normalize(0, x=ROWS, y=ROWS, axis=1, epsilon=0.1, scale=EMPTY, shift=three)
    with pytest.raises(ValueError, match="impossible axis"):
        program.softmax(0, x=ROWS, y=ROWS, axis=2, logarithm=False)


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
    y = (0, (2, 2), (2, 1))
    with pytest.raises(ValueError, match=message):
        program.gather(0, x=ROWS, y=y, axes=axes, indices=chosen, fill=0.0)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("kernel", (0, 1)),
        ("strides", (1, 0)),
        ("dilations", (-1, 1)),
        ("pads", (0, -1)),
        ("pads_after", (0, -1)),
        ("counted", (0, 0, 0, 1 << 40)),
    ],
)
def test_impossible_windows_are_refused(program, member, value):
    around = {"pads_after": (0, 0), "counted": (0,) * 4}
    with pytest.raises(ValueError, match="impossible window"):
        program.pool(
            0,
            op="MaxPool",
            x=(0, (1, 1, 4, 4), (16, 16, 4, 1)),
            y=(0, (1,) * 4, (1,) * 4),
            window={**Window((1, 1)).fields, **({member: value} if member in TAPS else {})},
            **{**around, **({} if member in TAPS else {member: value})},
        )


def test_unknown_names_and_kinds_are_refused(variant, program):
    native = module(variant)
    with pytest.raises(ValueError, match="elementwise: op: there is no 'Pow'"):
        program.elementwise(0, op="Pow", operands=[WHOLE, WHOLE], y=WHOLE, activation=None)
    tangent = activation("Tan")
    with pytest.raises(
        ValueError, match="activation: op: there is no 'Tan' in this build, only Relu, Clip"
    ):
        program.elementwise(0, op="Identity", operands=[WHOLE], y=WHOLE, activation=tangent)
    taps = Window((1, 1)).fields
    around = {"pads_after": (0, 0), "counted": (0,) * 4}
    with pytest.raises(ValueError, match="pool: op: there is no 'LpPool'"):
        program.pool(0, op="LpPool", x=ROWS, y=ROWS, window=taps, **around)
    wide = np.zeros(16)
    with pytest.raises(TypeError, match="constant: expected a C-contiguous array of float32"):
        program.elementwise(0, op="Add", operands=[WHOLE, wide], y=WHOLE, activation=None)
    with pytest.raises(ValueError, match="expected dtype"):
        native.Program(16, 1, "float64")
    with pytest.raises(ValueError, match="impossible size"):
        native.Program(-1, 1)
    for threads in (0, -1, 5000):
        with pytest.raises(ValueError, match="threads"):
            native.Program(16, threads)
    with pytest.raises(ValueError, match="no step has the index -2"):
        program.fill(-2, y=WHOLE, value=0.0)


VIEW = (0, (1, 1, 2, 2), (4, 4, 2, 1))
LAYER = {"x": image(0, 1, 4, (2, 2), 1, 2, 0), "y": image(4, 1, 4, (2, 2), 1, 2, 0), "skip": None}
ROW = {"bias": np.empty(0, np.float32), "activation": None, "window": Window((1, 1)).fields}
SQUARE = (4, (1, 1), (1, 1))
METHODS = {
    "copy_in": {"index": 0, "y": VIEW},
    "copy_out": {"x": VIEW, "index": 0},
    "copy": {"x": VIEW, "y": VIEW},
    "fill": {"y": VIEW, "value": 0.0},
    "gather": {"x": VIEW, "y": VIEW, "axes": [], "indices": [], "fill": 0.0},
    "interpolate": {"x": VIEW, "y": VIEW, "axis": 0, "taps": 1, "indices": np.zeros(1, np.int32),
                    "weights": np.ones(1, np.float32)},
    "elementwise": {"op": "Identity", "operands": [VIEW], "y": VIEW, "activation": None},
    "scale_shift": {"x": VIEW, "scale": None, "shift": None, "y": VIEW, "activation": None},
    "pool": {"op": "MaxPool", "x": VIEW, "y": VIEW, "window": Window((1, 1)).fields,
             "pads_after": (0, 0), "counted": (0,) * 4},
    "mean": {"x": VIEW, "y": (4, (1, 1, 1, 1), (1, 1, 1, 1)), "pixels": 1},
    "reduce": {"op": "Sum", "x": VIEW, "y": VIEW},
    "matmul": {"a": SQUARE, "b": SQUARE, "y": SQUARE},
    "normalize": {"x": VIEW, "y": VIEW, "axis": 0, "epsilon": 0.1, "scale": EMPTY, "shift": EMPTY},
    "softmax": {"x": VIEW, "y": VIEW, "axis": 0, "logarithm": False},
    "unfold": {"x": LAYER["x"], "y": LAYER["y"], "origins": np.zeros((1, 3), np.int64),
               "strides": (1, 1), "rows": 2},
    "depthwise": {**LAYER, **ROW, "weights": np.ones((1, 1), np.float32), "strips": 1, "parts": 1},
    "winograd": {**LAYER, **ROW, "window": Window((3, 3), pads=(1, 1)).fields, "vectors": 2,
                 "row_blocks": 4, "parts": 1, "weights": np.ones((1, 36, 1, 16), np.float32)},
    "rows": {**LAYER, **ROW, "weights": np.ones(1, np.float32), "columns": np.zeros(1, np.uint16),
             "starts": np.array([0, 1], np.int32), "combine": "store", "pool": (1, 1), "scale": 1.0,
             "tile": (1, 1, 1), "copies": "taps", "panel_channels": 1, "parts": 1},
    "convolution": LAYER,
    "narrow": LAYER,
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_field_is_named_once_and_none_besides(variant, method):
    """A field that is missing, or that the kernels do not know, is a TypeError that names it."""
    native = module(variant)
    fields = {**METHODS[method], **(groups(native.lanes) if METHODS[method] is LAYER else {})}
    add = getattr(native.Program(16, 1), method)
    add(0, **fields)
    with pytest.raises(TypeError, match=f"^{method} takes no colour$"):
        add(0, **fields, colour=1)
    for name, given in fields.items():
        with pytest.raises(TypeError, match=f"^{method} needs {name}$"):
            add(0, **{field: fields[field] for field in fields if field != name})
        if isinstance(given, dict):
            with pytest.raises(TypeError, match=f"^{method}: {name} takes no colour$"):
                add(0, **{**fields, name: {**given, "colour": 1}})
            for inner in given:
                with pytest.raises(TypeError, match=f"^{method}: {name} needs {inner}$"):
                    add(0, **{**fields, name: {k: v for k, v in given.items() if k != inner}})
        with pytest.raises(TypeError, match=name):
            add(0, **{**fields, name: object()})


def test_the_kernels_tell_their_numbers(variant):
    """What Python needs before a module is loaded is the same in all of them."""
    native = module(variant)
    assert native.run == module("portable").run
    assert native.enums == module("portable").enums
    assert native.sizes == {
        "group_rows": row_groups.LARGEST_HEIGHT,
        "offset_padding": grouped.OFFSET_PADDING,
        "slack": cpu_interpreter.SLACK,
        "winograd_rows": winograd.ROWS,
        "winograd_positions": winograd.POSITIONS,
        "tile_rows": bfloat16.TILE_ROWS,
        "tile_columns": bfloat16.TILE_COLUMNS,
    }


def test_inputs_and_outputs_are_checked_at_each_call(program):
    program.copy_in(0, index=0, y=ROWS)
    program.copy_out(0, x=ROWS, index=0)
    with pytest.raises(ValueError, match="shapes"):
        program.copy_in(0, index=0, y=WHOLE)
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
    program.fill(0, y=WHOLE, value=0.0)
    program.copy_in(0, index=0, y=(0, (4,), (1,)))
    program.copy_out(0, x=WHOLE, index=0)
    with pytest.raises(ValueError, match="shapes"):
        program.copy_in(0, index=0, y=WHOLE)
    with pytest.raises(ValueError, match="shapes"):
        program.copy_out(0, x=(0, (4,), (1,)), index=0)
    y = np.full(16, np.nan, np.float32)
    program.run([np.ones(4, np.float32)], [y])
    # Had the refused copies stayed, one would have read beyond x.
    assert y[:4].tolist() == [1] * 4
    assert y[4:].tolist() == [0] * 12


def test_a_program_that_was_called_takes_no_more_operations(program):
    program.run([], [])
    with pytest.raises(RuntimeError, match="takes no more operations"):
        program.fill(0, y=WHOLE, value=0.0)


def test_seconds_are_added_for_each_step(program):
    program.fill(-1, y=WHOLE, value=1.0)
    for step in (0, 2, 2):
        program.fill(step, y=WHOLE, value=1.0)
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
    program.elementwise(0, op="Identity", operands=[constant], y=WHOLE, activation=None)
    constant[:] = np.nan
    program.copy_out(0, x=WHOLE, index=0)
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

from runtime.cpu.kernels import bfloat16, grouped, winograd
from runtime.cpu.kernels.items import cut
from runtime.cpu.kernels.runs import plane_runs
from runtime.cpu.machine import Machine
from runtime.cpu.memory.layout import Form, View, as_image
from runtime.cpu.memory.window import Window
from runtime.cpu.weights import row_groups
from runtime.cpu.weights.pack import pack
from runtime.cpu.weights.row_groups import Scheme, shape_of
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


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that sends signals")
def test_a_signal_ends_a_call_between_two_operations(variant):
    size = 2**22
    long = module(variant).Program(size, 1)
    for step in range(500):
        long.fill(step, y=(0, (size,), (1,)), value=1.0)
    long.copy_out(500, x=WHOLE, index=0)
    y = np.full(16, np.nan, np.float32)

    class Interruption(BaseException):
        pass

    def stop(*_):
        raise Interruption

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(Interruption):
            long.run([], [y])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert np.isnan(y).all()  # The last operation was not executed.
    long.run([], [y])
    assert (y == 1).all()
