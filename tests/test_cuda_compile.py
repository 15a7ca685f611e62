"""Every kernel through NVIDIA's compiler, which needs no GPU, for each architecture it claims.

None may spill, none may take more registers than its launch bounds promise, and each must hold the
instructions that it was written for.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

import nvrtc
import pytest

from runtime import cuda_source
from runtime.cuda_candidates import candidates
from runtime.cuda_configuration import Limits, Problem

pytestmark = pytest.mark.skipif(
    nvrtc.library() is None, reason="needs nvidia-cuda-nvrtc (pip install nvidia-cuda-nvrtc)"
)

SHARED = {75: (65536, 65536), 80: (166912, 167936), 86: (101376, 102400), 89: (101376, 102400)}
ARCHITECTURES = (75, 80, 86, 89, 90, 100)
TYPES = [
    (dtype, capability)
    for dtype in ("float32", "tf32", "float16")
    for capability in ARCHITECTURES
    if (dtype, capability) != ("tf32", 75)
]


def limits(capability):
    """Return a device of an architecture; what the kernels depend on of it, at least."""
    return Limits(capability, 100, *SHARED.get(capability, (232448, 233472)))


def kernels(dtype, capability, activation="Relu"):
    """Return every kernel of a type for a device: large and small batches, few positions too."""
    return list(
        {
            c.name: c
            for lanes in (8, 1)
            for positions in (4096, 16)
            for c in candidates(
                Problem(dtype, positions, lanes, ((64, 500),), activation), limits(capability)
            )
        }.values()
    )


def compiled(configurations, capability):
    """Compile each kernel alone, some at a time; the compiler holds no lock."""
    if capability not in nvrtc.architectures():
        pytest.skip(f"this compiler does not know sm_{capability}")
    options = cuda_source.options(capability)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        made = threads.map(
            lambda c: nvrtc.compiled(cuda_source.render([c]), options), configurations
        )
        return list(zip(configurations, made, strict=True))


@pytest.mark.parametrize(("dtype", "capability"), TYPES)
def test_kernels_keep_to_registers_and_instructions(dtype, capability):
    check(spanning(kernels(dtype, capability), capability), capability)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "capability"), TYPES)
def test_every_kernel_keeps_to_registers_and_instructions(dtype, capability):
    check(kernels(dtype, capability), capability)


def spanning(configurations, capability):
    """Return two kernels, others for each architecture."""
    turn = ARCHITECTURES.index(capability)
    half = len(configurations) // 2
    return [configurations[turn % half], configurations[half + turn % half]]


def check(configurations, capability):
    """Compile kernels and compare what came of them with what they are written for."""
    for c, module in compiled(configurations, capability):
        kernel = module.kernels[c.name]
        assert (kernel.stack, kernel.spilled) == (0, 0), c.name
        assert kernel.registers * c.threads * c.blocks_per_processor <= 65536, c.name
        assert instructions(module.ptx) == wanted(c, capability), c.name


INSTRUCTIONS = {
    "copies of 16 bytes": r"cp\.async\.cg\.shared\.global \[[^]]+\], \[[^]]+\], 16;",
    "copies of 4 bytes": r"cp\.async\.ca\.shared\.global \[[^]]+\], \[[^]]+\], 4;",
    "float32 products": r"fma\.rn\.f32",
    "tf32 products": r"mma\.sync\.aligned\.m16n8k8\.row\.col\.f32\.tf32\.tf32\.f32",
    "float16 products of 16": r"mma\.sync\.aligned\.m16n8k16\.row\.col\.f32\.f16\.f16\.f32",
    "float16 products of 8": r"mma\.sync\.aligned\.m16n8k8\.row\.col\.f32\.f16\.f16\.f32",
    "transposed reads": r"ldmatrix\.sync\.aligned\.m8n8\.x4\.trans\.shared\.b16",
    "wide reads of shared memory": r"ld\.shared\.v4\.",
    "wide stores": r"st\.global\.v[24]\.",
}


def instructions(ptx):
    """Return which instructions of interest a text holds."""
    return {what for what, pattern in INSTRUCTIONS.items() if re.search(pattern, ptx)}


def wanted(c, capability):
    """Return the instructions that a kernel is written for; it is to hold no others of these."""
    found = {"float32 products", "wide reads of shared memory"}
    if c.asynchronous:
        found |= {"copies of 16 bytes"} | ({"copies of 4 bytes"} if c.copy_bytes == 4 else set())
    if c.dtype == "tf32":
        found |= {"tf32 products"}
    if c.dtype == "float16":
        found |= {"transposed reads"}
        found |= {"float16 products of 16" if capability >= 80 else "float16 products of 8"}
    return found | ({"wide stores"} if c.aligned else set())


@pytest.mark.slow
@pytest.mark.parametrize("capability", [75, 90])
@pytest.mark.parametrize(
    "activation", ["", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish"]
)
def test_activations_do_not_spill(activation, capability):
    chosen = [kernels(dtype, capability, activation)[0] for dtype in ("float32", "float16")]
    for c, module in compiled(chosen, capability):
        assert module.kernels[c.name].spilled == 0, c.name


@pytest.mark.parametrize("capability", [ARCHITECTURES[0], ARCHITECTURES[-1]])
def test_files_of_kernels_compile(capability):
    if capability not in nvrtc.architectures():
        pytest.skip(f"this compiler does not know sm_{capability}")
    for path in sorted(cuda_source.folder().glob("*.cu")):
        module = nvrtc.compiled(cuda_source.expand(path.name), cuda_source.options(capability))
        assert module.kernels
        assert all(kernel.spilled == 0 for kernel in module.kernels.values())


@pytest.mark.parametrize(
    ("dtype", "message"), [("tf32", "tf32 needs sm_80"), ("float32", "cp.async needs sm_80")]
)
def test_what_an_architecture_lacks_fails_with_a_message(dtype, message):
    source = cuda_source.render(kernels(dtype, 80)[:1])
    with pytest.raises(nvrtc.CompileError, match=message):
        nvrtc.compiled(source, cuda_source.options(75))


def test_an_error_carries_the_log():
    with pytest.raises(nvrtc.CompileError, match=r"identifier .nothing. is undefined"):
        nvrtc.compiled("__global__ void f() { nothing(); }", cuda_source.options(80))
