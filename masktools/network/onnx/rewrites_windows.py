"""How ONNX's layers, pools and other windows are written in the normal form."""

from __future__ import annotations

from masktools.network.onnx.node import Source
from masktools.network.onnx.reading import Pass
from masktools.network.sizes import largest


def _window(
    ctx: Pass, source: Source, kernel: tuple[int, ...], ceil: bool = False
) -> dict[str, tuple[int, ...]]:
    """Return strides, dilations and explicit pads."""
    size = ctx.shape(source.inputs[0])[2:]
    axes = len(kernel)
    if axes not in (1, 2) or len(size) != axes:
        raise source.refuse(
            f"{len(size)} spatial axes and a window of {axes}: one or two are supported"
        )
    strides = tuple(source.take("strides", (1,) * axes))
    dilations = tuple(source.take("dilations", (1,) * axes))
    pads = tuple(source.take("pads", (0,) * 2 * axes))
    auto = source.take("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            largest((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, s, d, k in zip(size, strides, dilations, kernel, strict=True)
        ]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = (*less, *more) if auto == "SAME_UPPER" else (*more, *less)
    elif auto == "VALID":
        pads = (0,) * 2 * axes
    elif auto != "NOTSET":
        raise source.refuse(f"attribute auto_pad={auto!r} is not supported")
    return {"strides": strides, "dilations": dilations, "pads": pads}


def conv(ctx: Pass, source: Source) -> None:
    """Write Conv with explicit pads, weight and bias named by its layer."""
    weight = ctx.constant_input(source, 1, "the weight")
    kernel = weight.shape[2:]
    if tuple(source.take("kernel_shape", kernel)) != kernel:
        raise source.refuse(f"attribute kernel_shape differs from its weight's {kernel}")
    window = _window(ctx, source, kernel)
    layer = ctx.keep_weight(source, weight)
    kept = [f"{layer}.weight"]
    if source.input(2):
        kept.append(ctx.keep(ctx.constant_input(source, 2, "the bias"), f"{layer}.bias"))
    group = source.take("group", 1)
    ctx.emit("Conv", source.inputs[:1], source.outputs[0], source.name, kept, **window, group=group)


def pool(ctx: Pass, source: Source) -> None:
    """Write MaxPool or AveragePool with every attribute and explicit pads."""
    source.check_one_output()
    source.take("storage_order")  # Of the second output alone.
    kernel = tuple(source.take("kernel_shape", ()))
    attributes = {
        "kernel_shape": kernel,
        **_window(ctx, source, kernel),
        "ceil_mode": source.take("ceil_mode", 0),
    }
    if source.op == "AveragePool":
        attributes["count_include_pad"] = source.take("count_include_pad", 0)
    ctx.emit(source.op, source.inputs[:1], source.outputs[0], source.name, **attributes)
