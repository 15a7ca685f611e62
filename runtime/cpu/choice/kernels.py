"""The kernels of each type of numbers, in order."""

from __future__ import annotations

from typing import Any

from runtime.cpu.kernels.bfloat16 import Bfloat16Grouped, product_kernel
from runtime.cpu.kernels.depthwise import Depthwise
from runtime.cpu.kernels.grouped import Grouped
from runtime.cpu.kernels.narrow import Narrow
from runtime.cpu.kernels.problem import Kernel
from runtime.cpu.kernels.windows import Windows
from runtime.cpu.kernels.winograd import Winograd

GROUPED = Grouped()
KERNELS: tuple[Kernel, ...] = (
    Depthwise(GROUPED), Winograd(), Windows(), Narrow(GROUPED), GROUPED,
)  # fmt: skip


def kernels_of(dtype: str, module: Any) -> tuple[Kernel, ...]:  # noqa: ANN401 - a compiled module
    """Return the kernels for a type of numbers; of those that cost the same the first is taken.

    Parameters
    ----------
    dtype : str
        "float32" or "bfloat16".
    module : module
        The variant of the kernels that is loaded.

    Raises
    ------
    PlanError
        If the processor has no instructions for products of bfloat16.
    """
    if dtype == "float32":
        return KERNELS
    grouped = Bfloat16Grouped(product_kernel(module))
    return (Depthwise(grouped, as_bfloat16=True), grouped)
