"""Many random networks, in processes of their own, so that one that dies is told and not fatal.

The program is `random_networks.py`; see its ``--help``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from network_checks import Check, Failure, Way, cpu_ways
from random_networks import draw
from shrinking import script, shrink

from runtime.backend import BACKENDS
from runtime.cpu import native

# Networks of one process.
CHUNK = 100
CUDA_DTYPES = ("float32", "tf32", "float16")


def main():
    """Run networks as the command line says; exit with 1 where one fails."""
    options = _parser().parse_args()
    if options.child:
        print(json.dumps(_child(options)))
        return
    chunks = range(options.first, options.first + options.count, CHUNK)
    last = options.first + options.count
    with ThreadPoolExecutor(options.jobs) as pool:
        results = pool.map(lambda first: _apart(options, first, min(CHUNK, last - first)), chunks)
        runs, failures = Counter(), 0
        for made in results:
            runs.update(made["runs"])
            for failed in made["failures"]:
                failures += failed["kind"] != "refused"
                print(f"\n# seed {failed['seed']}: {failed['kind']}: {failed['text']}")
                print(failed["script"], flush=True)
    outcomes = {name: n for name, n in sorted(runs.items()) if name.startswith("! ")}
    done = {name: n for name, n in sorted(runs.items()) if name not in outcomes}
    said = [f"{name.removeprefix('! ')}: {n}" for name, n in outcomes.items()]
    print(f"{options.count} networks from seed {options.first}, {sum(done.values())} runs")
    print("; ".join(f"{name}: {n}" for name, n in done.items()))
    print("; ".join(said) or "none wrong, none raw, none refused")
    sys.exit(bool(failures))


def _parser():
    parser = argparse.ArgumentParser(prog="random_networks.py", description=__doc__)
    add = parser.add_argument
    add("--first", type=int, default=0, help="the first seed")
    add("--count", type=int, default=1000, help="how many seeds")
    add("--backend", choices=("emulated", *BACKENDS), default="cpu")
    add("--threads", default="1,2,3")
    add("--isa", default="all", help=f"of {', '.join(native.VARIANTS)}, or all that run here")
    add("--dtype", default="all", help="such as float32,bfloat16; or all that run here")
    add("--ways", type=int, default=4, help="ways drawn for each network; 0: all of them")
    add("--jobs", type=int, default=1, help="processes")
    add("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


def ways_of(options):
    """Return all ways that the options name and that can run here."""
    dtypes = tuple(options.dtype.split(","))
    if options.backend != "cpu":
        name = "cuda" if options.backend == "emulated" else options.backend
        known = CUDA_DTYPES if name == "cuda" else ("float32",)
        return [Way(name, dtype=dtype) for dtype in (known if options.dtype == "all" else dtypes)]
    isas = native.VARIANTS if options.isa == "all" else options.isa.split(",")
    dtypes = ("float32", "bfloat16") if options.dtype == "all" else dtypes
    return cpu_ways(tuple(isas), dtypes, tuple(map(int, options.threads.split(","))))


def _child(options):
    """Run the networks of one process, and return what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        run = _emulated(Path(folder)) if options.backend == "emulated" else _run
        runs, failures = Counter(), []
        ways = ways_of(options)
        for seed in range(options.first, options.first + options.count):
            print(f"at {seed}", file=sys.stderr, flush=True)
            network = draw(seed)
            check = Check(network)
            for way in (Way("reference"), *drawn_ways(ways, options.ways, seed)):
                runs[str(way._replace(threads=None))] += 1
                failure = run(way, check)
                if failure:
                    runs[f"! {failure.kind}"] += 1
                    failures.append(_told(seed, way, failure, network, partial(run, way)))
                    break
    return {"runs": runs, "failures": failures}


def _run(way, check):
    return check.failure(way)


def _emulated(folder):
    """Return what runs a network on an emulated device, whose memory tells what is written past."""
    import fake_cupy
    import pytest

    fake = fake_cupy.install(pytest.MonkeyPatch(), folder)

    def run(way, check):
        failure = check.failure(way)
        try:
            fake.assert_guards_hold()
        except AssertionError as error:
            failure = Failure("guard", str(error))
        fake.wholes.clear()
        return failure

    return run


def drawn_ways(ways, count, seed):
    """Return some of the ways to run a network, other ones for each seed."""
    if not 0 < count < len(ways):
        return ways
    chosen = np.random.default_rng((seed, 7)).choice(len(ways), count, replace=False)
    return [ways[i] for i in sorted(chosen)]


def _told(seed, way, failure, network, run):
    small = shrink(network, failure, run)
    return {
        "seed": seed, "kind": failure.kind, "text": f"{way}: {failure.text}",
        "script": script(small, way),
    }  # fmt: skip


def _apart(options, first, count):
    """Run some networks in a process of their own; find the one that kills it."""
    given = {"first": first, "count": count, "backend": options.backend, "isa": options.isa}
    given.update(threads=options.threads, dtype=options.dtype, ways=options.ways)
    command = [sys.executable, str(Path(__file__).with_name("random_networks.py")), "--child"]
    command += [f"--{name}={value}" for name, value in given.items()]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode == 0:
        return json.loads(ran.stdout.splitlines()[-1])
    if ran.returncode > 0:
        raise RuntimeError(f"networks from {first}: {ran.stderr}")
    seed = int(ran.stderr.split("at ")[-1].split()[0])
    parts = [
        _apart(options, first, seed - first) if seed > first else None,
        _died(options, seed, -ran.returncode),
        _apart(options, seed + 1, first + count - seed - 1) if seed + 1 < first + count else None,
    ]
    runs, failures = Counter(), []
    for part in filter(None, parts):
        runs.update(part["runs"])
        failures += part["failures"]
    return {"runs": runs, "failures": failures}


def _died(options, seed, number):
    """Return the report on a network that killed its process."""
    failure = Failure("died", signal.Signals(number).name)
    network = draw(seed)
    ways = drawn_ways(ways_of(options), options.ways, seed)
    way = next((w for w in ways if run_apart(w, Check(network))), None)
    if way is None:
        return {
            "runs": {"! died": 1},
            "failures": [{"seed": seed, **failure._asdict(), "script": f"# not by itself: {ways}"}],
        }
    told = _told(seed, way, failure, network, partial(run_apart, way))
    return {"runs": {"! died": 1}, "failures": [told]}


def run_apart(way, check):
    """Return a failure if a network kills the process that runs it."""
    code = script(check.network, way)
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, check=False,
    )  # fmt: skip
    died = ran.returncode < 0
    return Failure("died", signal.Signals(-ran.returncode).name) if died else None
