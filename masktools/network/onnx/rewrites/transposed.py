"""How ONNX's ConvTranspose is written in the normal form: a Conv of its phases, interleaved."""

from __future__ import annotations

from math import prod

import numpy as np

from masktools import limits
from masktools.network.onnx.forms import Phases
from masktools.network.onnx.node import Source
from masktools.network.onnx.reading import Pass
from masktools.network.sizes import largest, same


def conv_transpose(ctx: Pass, source: Source) -> None:
    """Write ConvTranspose as the convolution that makes all its phases, and put them in order."""
    weight = ctx.constant_input(source, 1, "the weight")
    x, size = source.inputs[0], ctx.shape(source.inputs[0])[2:]
    kernel = weight.shape[2:]
    axes = len(kernel)
    if axes not in (1, 2) or len(size) != axes:
        raise source.refuse(
            f"{len(size)} spatial axes and a window of {axes}: one or two are supported"
        )
    if tuple(source.take("kernel_shape", kernel)) != kernel:
        raise source.refuse(f"attribute kernel_shape differs from its weight's {kernel}")
    strides = _each(source, "strides", 1, axes)
    form = Phases(
        weight.shape, source.take("group", 1), strides, _each(source, "dilations", 1, axes)
    )
    _check(ctx, source, form)
    starts, outs = _window(source, form, size)
    # The first position of the convolution that is needed, and the end of those; what these leave
    # of a crop is cut off afterwards.
    reach = [step * (taps - 1) for step, taps in zip(form.steps, form.taps, strict=True)]
    first = [_least(p // s, r) for p, s, r in zip(starts, strides, reach, strict=True)]
    ends = [-(-(p + n) // s) for p, n, s in zip(starts, outs, strides, strict=True)]
    pads = [r - q for r, q in zip(reach, first, strict=True)]
    pads += [largest(end - n, 0) for end, n in zip(ends, size, strict=True)]
    layer = ctx.keep_weight(source, form.to_layer(weight), form)
    kept = [f"{layer}.weight"]
    if source.input(2):
        bias = np.repeat(ctx.constant_input(source, 2, "the bias"), form.rows)
        kept.append(ctx.keep(bias, f"{layer}.bias"))
    y, name = source.outputs[0], source.name
    cuts = [p - s * q for p, s, q in zip(starts, strides, first, strict=True)]
    counts = [n + pads[i] + pads[i + axes] - reach[i] for i, n in enumerate(size)]
    cropped = any(
        not same(cut, 0) or not same(n, s * count)
        for cut, n, s, count in zip(cuts, outs, strides, counts, strict=True)
    )
    whole = ctx.fresh(f"{y}_whole") if cropped else y
    phases = ctx.fresh(f"{y}_phases") if form.rows > 1 else whole
    ctx.emit(
        "Conv", [x], phases, name, kept,
        strides=(1,) * axes, pads=tuple(pads), dilations=form.steps, group=form.groups,
    )  # fmt: skip
    if form.rows > 1:
        _interleave(ctx, source, phases, whole, strides)
    if cropped:
        stops = tuple(cut + n for cut, n in zip(cuts, outs, strict=True))
        ctx.emit(
            "Slice", [whole], y, f"{name}_crop",
            starts=tuple(cuts), ends=stops, axes=tuple(range(2, 2 + axes)), steps=(1,) * axes,
        )  # fmt: skip


def _each(source: Source, name: str, default: int, axes: int) -> tuple[int, ...]:
    """Return an attribute with a number for each spatial axis."""
    given = tuple(source.take(name, (default,) * axes))
    if len(given) != axes or min(given) < default:
        raise source.refuse(f"attribute {name}={given} for {axes} spatial axes")
    return given


def _check(ctx: Pass, source: Source, form: Phases) -> None:
    """Raise unless the weight fits the groups, and the layer's may be made."""
    inputs = form.shape[0]
    if min(form.shape) < 1 or form.groups < 1 or inputs % form.groups:
        raise source.refuse(
            f"a weight of shape {form.shape} with group={form.groups} has no channels for each"
        )
    if inputs != ctx.shape(source.inputs[0])[1]:
        raise source.refuse(
            f"a weight of shape {form.shape} for {ctx.shape(source.inputs[0])[1]} channels"
        )
    made = prod(form.layer_shape)
    allowed = limits.FOLDED + limits.FOLDED_FOR_EACH * prod(form.shape)
    if made > allowed or prod(form.taps) > limits.TAPS:
        raise source.refuse(
            f"strides {form.strides} and dilations {form.dilations} make a convolution of "
            f"{made} weights of its {prod(form.shape)}; {allowed} are allowed"
        )


def _window(
    source: Source, form: Phases, size: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return where the output begins in the whole that the window makes, and its sizes."""
    axes = len(size)
    more = _each(source, "output_padding", 0, axes)
    whole = [
        s * (n - 1) + added + d * (k - 1) + 1
        for s, n, added, d, k in zip(
            form.strides, size, more, form.dilations, form.shape[2:], strict=True
        )
    ]
    pads = tuple(source.take("pads", (0,) * 2 * axes))
    auto = source.take("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER") or len(pads) != 2 * axes:
        raise source.refuse(f"attributes auto_pad={auto!r} and pads={pads} are not supported")
    outs = tuple(source.take("output_shape", ()))[-axes:]
    if not outs and auto in ("SAME_UPPER", "SAME_LOWER"):
        outs = tuple(s * n for s, n in zip(form.strides, size, strict=True))
        if any(n < out for n, out in zip(whole, outs, strict=True)):
            raise source.refuse(
                f"attribute auto_pad={auto!r} asks for {outs} pixels, of which its window reaches "
                f"{tuple(whole)}: runtimes differ in what is beyond; give output_shape or pads"
            )
    if outs:
        if len(outs) != axes:
            raise source.refuse(f"attribute output_shape={outs} for {axes} spatial axes")
        # Pixels that no window reaches are added at the end.
        total = [largest(n - out, 0) for n, out in zip(whole, outs, strict=True)]
        return tuple(t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total), outs
    if auto == "VALID":
        pads = (0,) * 2 * axes
    outs = tuple(n - pads[i] - pads[i + axes] for i, n in enumerate(whole))
    return pads[:axes], outs


def _least(a: int, b: int) -> int:
    return -largest(-a, -b)


def _interleave(
    ctx: Pass, source: Source, phases: str, made: str, strides: tuple[int, ...]
) -> None:
    """Put the phases, which are channels, where they belong between the pixels."""
    _, channels, *size = ctx.shape(phases)
    axes = len(strides)
    apart, turned = ctx.fresh(f"{made}_apart"), ctx.fresh(f"{made}_turned")
    outputs = channels // prod(strides)
    ctx.emit(
        "Reshape", [phases], apart, f"{source.name}_apart", shape=(0, outputs, *strides, *size)
    )
    perm = [place for i in range(axes) for place in (2 + axes + i, 2 + i)]
    ctx.emit("Transpose", [apart], turned, f"{source.name}_turned", perm=(0, 1, *perm))
    sizes = tuple(n * s for n, s in zip(size, strides, strict=True))
    ctx.emit("Reshape", [turned], made, f"{source.name}_joined", shape=(0, outputs, *sizes))
