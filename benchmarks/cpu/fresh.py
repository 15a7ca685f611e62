"""A fresh process that loads a checkpoint and runs it once: what it took, as a line of JSON.

    python benchmarks/cpu/fresh.py CHECKPOINT IMAGES.npy THREADS STARTED

STARTED: time.monotonic() of the parent just before it started this process.
"""

import sys
import time

import numpy as np


def peak_rss() -> int:
    """Return the most memory that the process has had, in bytes."""
    with open("/proc/self/status") as status:  # noqa: PTH123 - pathlib is not to be counted
        [line] = [line for line in status if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


before = peak_rss()
x = np.load(sys.argv[2])

import runtime  # noqa: E402 - what stands before it is what is compared with

model = runtime.load(sys.argv[1], backend="cpu", threads=int(sys.argv[3]))
loaded = time.monotonic()
model(x)
first = time.monotonic()
after = peak_rss()
model(x)
again = time.monotonic()

import json  # noqa: E402 - as above

started = float(sys.argv[4])
print(
    json.dumps(
        {
            "interpreter_bytes": before,
            "peak_bytes": after,
            "load_seconds": loaded - started,
            "first_output_seconds": first - started,
            "second_run_seconds": again - first,
        }
    )
)
