"""A network with calibrated values on its way into a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from masktools.calibration.affine import with_values
from masktools.calibration.network import calibrate_graph
from masktools.calibration.walk import Run
from masktools.checks import check_layers
from masktools.errors import MaskError
from masktools.layout import BlockLayout
from masktools.network.network import Network

Values = Mapping[str, NDArray[np.float32]]
Inputs = Mapping[str, ArrayLike] | ArrayLike


def check_calibration(
    layouts: object, values: object, calibrate: Inputs | None, run: Run | None
) -> None:
    """Raise unless the arguments of `calibrated` go together: ask before any work."""
    if values is not None:
        check_layers("values", values)
    if calibrate is None:
        return
    if values is not None:
        raise TypeError("values and calibrate exclude each other: values are calibrated already")
    if layouts is None or run is None:
        raise TypeError(
            "calibrate needs layouts, which say what is stored, and run, which runs the network: "
            "run=runtime.prepare"
        )


def calibrated(
    network: Network,
    layouts: Mapping[str, BlockLayout] | None,
    residual: str,
    values: Values | None,
    calibrate: Inputs | None,
    run: Run | None,
) -> tuple[Network, Mapping[str, BlockLayout] | None]:
    """Return the network with calibrated values, where there are any or it is to be calibrated.

    Parameters
    ----------
    network : Network
        Not changed.
    layouts, residual, values, calibrate, run
        As `masktools.export.from_onnx`.

    Returns
    -------
    Network
    mapping of str to BlockLayout, or None
        The layouts, with the columns that the calibration chose.
    """
    if calibrate is not None and layouts is not None and run is not None:
        # Without residual="keep" a residual is refused or left out: no layout stores any.
        residual = "keep" if residual == "keep" else "drop"
        found = calibrate_graph(network.graph, layouts, calibrate, run, residual=residual)
        values, layouts = found.values, {**layouts, **found.layouts}
    elif values is not None and layouts is not None and residual != "keep":
        _check_inside(network, layouts, values)
    return Network.of(with_values(network.graph, values)) if values else network, layouts


def _check_inside(network: Network, layouts: Mapping[str, BlockLayout], values: Values) -> None:
    """Raise `MaskError` where a calibrated value lies outside of what a layout stores."""
    for name, layout in layouts.items():
        weight = values.get(network.layers[name].weight) if name in network.layers else None
        if weight is None or weight.shape != layout.shape:
            continue
        outside = int(np.count_nonzero(weight[~layout.to_mask()]))
        if outside:
            raise MaskError(
                f"layer {name!r}: {outside} calibrated values lie outside of its blocks: its "
                "columns were chosen anew, so take the layouts of Conversion.calibrated(...) too"
            )
