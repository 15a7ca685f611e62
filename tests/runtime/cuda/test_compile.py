"""Every kernel through NVIDIA's compilers, which need no GPU, for each architecture it claims.

They are given what CuPy gives them. No kernel may spill, none may take more registers than its
launch bounds promise, and each must hold the instructions that it was written for. CUDA 13 has all
kernels to compile; CUDA 12 those of sm_70, which only it knows.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor

import nvrtc
import pytest
from cuda_convolutions import OPS
from paths import BENCHMARKS

from runtime.cuda import kernel_source
from runtime.cuda.candidates import NEEDED, candidates
from runtime.cuda.configuration import Limits, Problem

SHARED = {
    70: (98304, 98304),
    75: (65536, 65536),
    80: (166912, 167936),
    86: (101376, 102400),
    89: (101376, 102400),
}
ARCHITECTURES = (70, 75, 80, 86, 89, 90, 100)
TYPES = [
    (dtype, capability)
    for dtype, least in NEEDED.items()
    for capability in ARCHITECTURES
    if capability >= least
]
NEWEST, OLDER = 13, 12
OF_NEWEST = [(NEWEST, *kind) for kind in TYPES if kind[1] > 70]
OF_OLDER = [(OLDER, *kind) for kind in TYPES if kind[1] == 70]


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


def compiler(version, capability):
    """Return a compiler that knows an architecture."""
    found = nvrtc.compilers().get(version)
    if found is None:
        package = {12: "nvidia-cuda-nvrtc-cu12"}.get(version, "nvidia-cuda-nvrtc")
        pytest.skip(f"needs the compiler of CUDA {version}: pip install {package}")
    if capability not in found.architectures():
        pytest.skip(f"the compiler of CUDA {version} does not know sm_{capability}")
    return found


def compiled(configurations, version, capability):
    """Compile each kernel alone, some at a time; the compiler holds no lock."""
    used, options = compiler(version, capability), nvrtc.options(capability)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        sources = map(kernel_source.render, ([c] for c in configurations))
        made = threads.map(lambda source: used.compiled(source, options), sources)
        return list(zip(configurations, made, strict=True))


@pytest.mark.parametrize(("version", "dtype", "capability"), [*OF_NEWEST, *OF_OLDER])
def test_kernels_keep_to_registers_and_instructions(version, dtype, capability):
    check(spanning(kernels(dtype, capability), capability), version, capability)


@pytest.mark.slow
@pytest.mark.parametrize(("version", "dtype", "capability"), [*OF_NEWEST, *OF_OLDER])
def test_every_kernel_keeps_to_registers_and_instructions(version, dtype, capability):
    check(kernels(dtype, capability), version, capability)


def spanning(configurations, capability):
    """Return two kernels, others for each architecture."""
    turn = ARCHITECTURES.index(capability)
    half = len(configurations) // 2
    return [configurations[turn % half], configurations[half + turn % half]]


def check(configurations, version, capability):
    """Compile kernels and compare what came of them with what they are written for."""
    for c, module in compiled(configurations, version, capability):
        kernel = module.kernels[c.name]
        assert (kernel.stack, kernel.spilled) == (0, 0), c.name
        assert kernel.registers * c.threads * c.blocks_per_processor <= 65536, c.name
        assert instructions(module.ptx) == wanted(c, capability), c.name


INSTRUCTIONS = {
    "copies of 16 bytes": r"cp\.async\.cg\.shared\.global \[[^]]+\], \[[^]]+\], 16;",
    "copies of 4 bytes": r"cp\.async\.ca\.shared\.global \[[^]]+\], \[[^]]+\], 4;",
    "float32 products": r"fma\.rn\.ftz\.f32",
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
@pytest.mark.parametrize("activation", [op for op in OPS if op != "Relu"])
def test_activations_do_not_spill(activation, capability):
    chosen = [kernels(dtype, capability, activation)[0] for dtype in ("float32", "float16")]
    for c, module in compiled(chosen, NEWEST, capability):
        assert module.kernels[c.name].spilled == 0, c.name


@pytest.mark.parametrize(("version", "capability"), [(OLDER, 70), (NEWEST, 75), (NEWEST, 100)])
def test_files_of_kernels_compile(version, capability):
    used = compiler(version, capability)
    texts = [
        kernel_source.expand(path.name) for path in sorted(kernel_source.folder().glob("*.cu"))
    ]
    ceilings = BENCHMARKS / "gpu" / "ceilings.cu"
    texts.append(kernel_source.expand("device.cuh") + ceilings.read_text(encoding="utf-8"))
    for text in texts:
        module = used.compiled(text, nvrtc.options(capability))
        assert module.kernels
        assert all(kernel.spilled == 0 for kernel in module.kernels.values())


@pytest.mark.parametrize(
    ("dtype", "message"), [("tf32", "tf32 needs sm_80"), ("float32", "cp.async needs sm_80")]
)
def test_what_an_architecture_lacks_fails_with_a_message(dtype, message):
    source = kernel_source.render(kernels(dtype, 80)[:1])
    with pytest.raises(nvrtc.CompileError, match=message):
        compiler(NEWEST, 75).compiled(source, nvrtc.options(75))


def test_an_error_carries_the_log():
    with pytest.raises(nvrtc.CompileError, match=r"identifier .nothing. is undefined"):
        compiler(NEWEST, 80).compiled("__global__ void f() { nothing(); }", nvrtc.options(80))
