"""One engine in a process of its own: requests come as lines of JSON, and so do the answers.

    {"do": "load", "engine": "onnxruntime", "path": ..., "images": X.npy, "threads": 2}
    {"do": "run", "times": 5}          -> {"seconds": [...]}
    {"do": "output", "path": Y.npy}
    {"do": "peak", "seconds": 0.1, "threads": 2}  -> {"multiplications": per second}

Runs under the interpreter of the engine's own environment, so it needs NumPy and the engine alone.
An engine that fails answers {"error": ...} and goes on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Run = Callable[[], Any]
Array = NDArray[Any]


def onnxruntime(path: str, x: Array, threads: int) -> tuple[Run, str]:
    """Run onnxruntime, on threads of its own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x})[0], onnxruntime.__version__


def openvino(path: str, x: Array, threads: int) -> tuple[Run, str]:
    """Run OpenVINO in float32, for the least latency."""
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda: request.infer([x], share_inputs=True)[0], openvino.__version__


def _torch_module(path: str, x: Array, threads: int) -> tuple[Any, Any]:
    import torch

    torch.set_num_threads(threads)
    module: Any = torch.export.load(path).module()
    module = module.to(memory_format=torch.channels_last)
    return module, torch.from_numpy(x).to(memory_format=torch.channels_last)


def torch_frozen(path: str, x: Array, threads: int) -> tuple[Run, str]:
    """Run PyTorch, traced and frozen, channels last."""
    import torch

    module, images = _torch_module(path, x, threads)
    with torch.inference_mode():
        frozen = torch.jit.freeze(torch.jit.trace(module, images).eval())  # type: ignore[no-untyped-call]

    def run() -> Any:  # noqa: ANN401
        with torch.inference_mode():
            return frozen(images)

    return run, torch.__version__


def torch_compile(path: str, x: Array, threads: int) -> tuple[Run, str]:
    """Run PyTorch, compiled with frozen weights, channels last."""
    import torch
    import torch._inductor.config

    torch._inductor.config.freezing = True  # folds batch normalisation, packs the weights
    module, images = _torch_module(path, x, threads)
    compiled: Any = torch.compile(module)

    def run() -> Any:  # noqa: ANN401
        with torch.no_grad():
            return compiled(images)

    return run, torch.__version__


def deepsparse(path: str, x: Array, threads: int) -> tuple[Run, str]:
    """Run DeepSparse, which is told not to report its use."""
    os.environ["NM_DISABLE_ANALYTICS"] = "True"
    import deepsparse

    engine = deepsparse.compile_model(path, batch_size=len(x), num_cores=threads)
    return lambda: engine.run([x], val_inp=False)[0], deepsparse.__version__


def mnn(path: str, x: Array, threads: int) -> tuple[Run, str]:
    """Run MNN on a conversion of the file, with the sparse kernels that it chooses by itself."""
    import tempfile
    from pathlib import Path

    import _tools  # MNN's converter; its Python wrapper reports its use, and installs what it needs
    import MNN

    with tempfile.TemporaryDirectory() as folder:
        made = str(Path(folder) / "net.mnn")
        files = ["--modelFile", path, "--MNNModel", made]
        _tools.mnnconvert(
            ["mnnconvert", "-f", "ONNX", *files, "--bizCode", "x", "--detectSparseSpeedUp"]
        )
        network = MNN.Interpreter(made)
    session = network.createSession({"numThread": threads, "backend": "CPU", "precision": "high"})
    (given,) = network.getSessionInputAll(session).values()
    network.resizeTensor(given, x.shape)
    network.resizeSession(session)
    layout, number = MNN.Tensor_DimensionType_Caffe, MNN.Halide_Type_Float
    images = MNN.Tensor(x.shape, number, x, layout)
    made_by, *_ = network.getSessionOutputAll(session).values()

    def run() -> Any:  # noqa: ANN401
        given.copyFrom(images)  # A run may write over its input.
        network.runSession(session)
        shape = made_by.getShape()
        held = MNN.Tensor(shape, number, np.empty(shape, np.float32), layout)
        made_by.copyToHostTensor(held)
        return held.getNumpyData().copy()  # It is the tensor's memory, which ends with it.

    return run, MNN.version()


def masktools(path: str, x: Array, threads: int, dtype: str = "float32") -> tuple[Run, str]:
    """Run a checkpoint on our CPU backend."""
    import runtime
    from masktools.version import __version__

    model = runtime.load(path, backend="cpu", dtype=dtype, threads=threads)
    return lambda: model(x), __version__


def masktools_bfloat16(path: str, x: Array, threads: int) -> tuple[Run, str]:
    """Run a checkpoint on our CPU backend, in bfloat16."""
    return masktools(path, x, threads, "bfloat16")


ENGINES = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "torch": torch_frozen,
    "torch-compile": torch_compile,
    "deepsparse": deepsparse,
    "mnn": mnn,
    "masktools": masktools,
    "masktools-bfloat16": masktools_bfloat16,
}


class Worker:
    """The network that a process keeps loaded between requests."""

    def __init__(self) -> None:
        self.run_once: Run | None = None

    def load(self, engine: str, path: str, images: str, threads: int) -> dict[str, Any]:
        """Load a network and run it once."""
        self.run_once = None  # two networks at once would share the caches' sets, and the memory
        start = time.perf_counter()
        self.run_once, version = ENGINES[engine](path, np.load(images), threads)
        self.run_once()
        return {"version": version, "seconds": time.perf_counter() - start}

    def run(self, times: int) -> dict[str, Any]:
        """Time single runs, after one that is not timed."""
        assert self.run_once is not None
        self.run_once()
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            self.run_once()
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}

    def output(self, path: str) -> dict[str, Any]:
        """Write the network's first output."""
        assert self.run_once is not None
        np.save(path, np.asarray(self.run_once(), np.float32))
        return {}

    def peak(self, seconds: float, threads: int) -> dict[str, Any]:
        """Measure fused multiply-adds on registers alone, on all threads at once."""
        from runtime.engines.peak import peak

        return {"multiplications": peak(threads, seconds)}


def _end_with_parent() -> None:
    """Let the system end this process with its parent, where it can: a stopped one sees no end."""
    import ctypes
    import signal

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> None:
    """Answer requests until there are no more."""
    _end_with_parent()
    # Engines print to standard output; answers alone may stand there.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:  # whatever an engine raises: the others are to go on
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
