"""A child of a process whose other threads were at work can work too, or says why it cannot."""

from __future__ import annotations

import os
import subprocess
import sys

import fake_cupy
import pytest
from paths import ROOT, SUPPORT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

# A child that hangs says where after a while, and fails like one that raises.
PRELUDE = """
import faulthandler, os, random, signal, sys, threading, traceback
import numpy as np
import numpy.testing  # not when first used: a child forked while a thread imports hangs in Python

faulthandler.register(signal.SIGALRM, chain=True)

def in_child(check, *arguments):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        status = 1
        try:
            check(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    ended = os.waitpid(child, 0)[1]
    assert ended == 0, f"the child hung, or failed: {ended}"

def held(enter):
    '''Run a function in a thread until it calls what it is given; it stays in there for ever.'''
    inside = threading.Event()
    def stay(*_):
        inside.set()
        threading.Event().wait()
    threading.Thread(target=enter, args=(stay,), daemon=True).start()
    assert inside.wait(60)
"""

NETWORK = """
from builder import Builder
from masktools.checkpoint import Checkpoint
from runtime.plan import plan
from runtime.cpu.backend import CpuBackend
from runtime.model import Model
from runtime.reference.backend import ReferenceBackend

def built():
    b = Builder()
    x = b.act("Relu", b.conv("x", 24))
    return plan.build(Checkpoint(b.graph(b.fc(b.act("Relu", b.conv(x, 16)), 5))))

inputs = {n: np.random.default_rng(n).standard_normal((n, 3, 6, 6), np.float32)
          for n in range(1, 40)}
"""


def python(*parts: str) -> None:
    path = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    warning = [] if sys.version_info < (3, 12) else ["-W", "ignore::DeprecationWarning"]
    subprocess.run(
        [sys.executable, *warning, "-c", "\n".join((PRELUDE, *parts))],
        check=True,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.parametrize(
    ("backend", "threads", "children"),
    [("Cpu", 1, 30), ("Cpu", 2, 30), ("Cpu", 3, 30), ("Reference", None, 10)],
)
def test_children_call_while_threads_of_the_parent_do(backend, threads, children):
    code = f"""
model = Model(built(), {backend}Backend(), threads={threads})
wanted = {{n: model(x) for n, x in inputs.items()}}
stop, failures = False, []

def busy(seed):
    pick = random.Random(seed)
    try:
        while not stop:
            n = pick.randrange(1, 40)
            np.testing.assert_array_equal(model(inputs[n]), wanted[n])
    except BaseException as error:
        failures.append(error)

def check(n):
    for m in (n, n % 39 + 1):
        np.testing.assert_array_equal(model(inputs[m]), wanted[m])

def check_and_fork(n):
    check(n)
    in_child(check, n)
    check(n)

threads = [threading.Thread(target=busy, args=(seed,)) for seed in range(4)]
for thread in threads:
    thread.start()
try:
    for n in range(1, {children} + 1):
        in_child(check_and_fork if n % 5 == 0 else check, n)
finally:
    stop = True
    for thread in threads:
        thread.join()
assert not failures, failures
check(7)
"""
    python(NETWORK, code)


@pytest.mark.parametrize("backend", ["Cpu", "Reference"])
def test_a_call_imports_nothing_for_a_child_would_wait_for_it_to_end(backend):
    code = f"""
from cuda_plans import residual_network
networks = [(built(), 3), (plan.build(Checkpoint(residual_network())), 4)]
loaded = [(Model(network, {backend}Backend()), channels) for network, channels in networks]
before = set(sys.modules)
for model, channels in loaded:
    for n in (1, 3, 16, 33):
        model(np.ones((n, channels, 6, 6), np.float32))
assert set(sys.modules) == before, set(sys.modules) - before
"""
    python(NETWORK, code)


def test_a_child_compiles_although_a_thread_of_the_parent_was_compiling():
    code = """
class Slow(CpuBackend):
    wait = None

    def compile(self, *arguments):
        if Slow.wait and threading.current_thread() is not threading.main_thread():
            Slow.wait()
        return super().compile(*arguments)

model = Model(built(), Slow(), threads=2)
wanted = Model(built(), CpuBackend(), threads=2)(inputs[5])

def enter(stay):
    Slow.wait = stay
    model(inputs[4])

held(enter)
assert model._lock.locked()
in_child(lambda: np.testing.assert_array_equal(model(inputs[5]), wanted))
"""
    python(NETWORK, code)


def test_a_child_makes_the_program_that_a_thread_of_the_parent_was_making():
    code = """
model = Model(built(), CpuBackend(), threads=2)
wanted = Model(built(), CpuBackend(), threads=2)(inputs[5])
executable = model._executable({"x": inputs[5].shape})
compiler = executable._compiler
make = compiler.program

def enter(stay):
    compiler.program = stay
    model(inputs[5])

held(enter)
compiler.program = make
assert executable._lock.locked()
in_child(lambda: np.testing.assert_array_equal(model(inputs[5]), wanted))
"""
    python(NETWORK, code)


def test_a_child_computes_what_a_thread_of_the_parent_was_computing_of_another_object():
    code = """
from masktools.layout import BlockLayout
from runtime.plan.plan import Plan

class Blocks(tuple):
    def __iter__(self):
        self.stay()

def enter(stay):
    Blocks.stay = stay
    layout = BlockLayout.from_mask(np.ones((4, 4), bool))
    vars(layout).update(blocks=Blocks())
    vars(layout).pop("stored", None)
    layout.stored

class Steps(tuple):
    def __iter__(self):
        self.stay()

def enter_plan(stay):
    Steps.stay = stay
    Plan((), (), {}, Steps(), {}).readers

held(enter)
held(enter_plan)

def check():
    assert BlockLayout.from_mask(np.ones((4, 4), bool)).stored == 16
    assert built().readers["x"] == [0]

in_child(check)
"""
    python(NETWORK, code)


def test_a_fork_waits_for_a_product_of_matrices_and_no_longer():
    code = """
from masktools.forks import PRODUCTS

inside, go = threading.Event(), threading.Event()

def multiply():
    with PRODUCTS:
        inside.set()
        go.wait()
        done.append(True)

done = []
thread = threading.Thread(target=multiply)
thread.start()
inside.wait()
threading.Timer(0.2, go.set).start()

def check():
    assert done
    with PRODUCTS:
        pass

in_child(check)
thread.join()
with PRODUCTS:
    in_child(check)  # A handler of a signal may fork anywhere.
in_child(lambda: in_child(check))
"""
    python(code)


def test_workers_limit_their_threads_although_a_thread_of_the_parent_was_about_to():
    code = """
from threadpoolctl import threadpool_info
from masktools.conversion import workers

def enter(stay):
    with workers._one_thread._lock:
        workers._one_thread._inside = 1
        stay()

held(enter)

def check():
    with workers._one_thread:
        assert {found["num_threads"] for found in threadpool_info()} == {1}

in_child(check)
"""
    python(code)


def test_a_pool_of_forked_processes_runs_a_model_of_the_parent():
    code = """
import multiprocessing

model = Model(built(), CpuBackend(), threads=2)
wanted = {n: model(inputs[n]) for n in range(1, 9)}

def call(n):
    return n, model(inputs[n])

with multiprocessing.get_context("fork").Pool(2) as processes:
    for n, found in processes.map_async(call, range(1, 9)).get(120):
        np.testing.assert_array_equal(found, wanted[n])
        np.testing.assert_array_equal(model(inputs[n]), wanted[n])
"""
    python(NETWORK, code)


@pytest.mark.parametrize("place", fake_cupy.places())
def test_a_child_is_told_that_cuda_does_not_survive_a_fork(place):
    code = f"""
import tempfile
from pathlib import Path
import fake_cupy, pytest
from cuda_plans import normal, pointwise
from runtime.backend import choose
from runtime.cuda.backend import CudaBackend
from runtime.errors import BackendUnavailable
from runtime.model import Model

folder = Path(tempfile.mkdtemp())
if {place!r} == "emulated":
    fake_cupy.install(pytest.MonkeyPatch(), folder)
x = normal(2, 3, 6, 6)
before = CudaBackend()
assert before.available().ok
model = Model(pointwise(), CudaBackend())
wanted = model(x)
executable = model._executable({{"x": x.shape}})
held(lambda stay: (executable._lock.acquire(), stay()))
assert executable._lock.locked()

def check():
    for use in (
        lambda: model(x),
        lambda: model(normal(3, 3, 6, 6)),
        lambda: executable.run({{"x": x}}),
        lambda: Model(pointwise(), before),
        lambda: before.synchronize(),
        lambda: choose("cuda"),
    ):
        with pytest.raises(BackendUnavailable, match="forked from one that had used CUDA.*spawn"):
            use()
    assert not before.available().ok
    assert choose("auto").name != "cuda"
    model._compiled.clear()  # what the parent's driver owns is not waited for

in_child(check)
executable._lock.release()
np.testing.assert_array_equal(model(x), wanted)
"""
    python(code)
