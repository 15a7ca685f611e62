"""Networks whose skip branch may, or may not, be written over."""

from __future__ import annotations


def residual(b):
    """The branch is read by the layers before, and by nothing after."""
    x = b.act("Relu", b.conv("x", 6))
    return b.act("Relu", b.add_skip(b.conv(b.act("Relu", b.conv(x, 6)), 6, 1), x)), True


def read_later(b):
    x = b.act("Relu", b.conv("x", 6))
    return b.add_skip(b.conv(b.add_skip(b.conv(x, 6), x), 6), x), True


def of_itself(b):
    """The layer reads neighbours of what it would write over."""
    x = b.act("Relu", b.conv("x", 6))
    return b.add_skip(b.conv(x, 6), x), False


def given(b):
    """Inputs are copied into the arena: the caller's array is never written."""
    return b.add_skip(b.conv(b.act("Relu", b.conv("x", 6)), 3, 1), "x"), True


def returned(b):
    x = b.act("Relu", b.conv("x", 6))
    return (x, b.add_skip(b.conv(b.act("Relu", b.conv(x, 6)), 6), x)), False


def part_of_a_whole(b):
    """What is added is one channel range of a value that is read later."""
    x = b.act("Relu", b.conv("x", 6))
    y = b.act("Relu", b.conv("x", 6))
    added = b.add_skip(b.conv(y, 6, 1), x)
    return b.conv(b.concat(b.concat(x, y), added), 5), False


NETWORKS = [residual, read_later, of_itself, given, returned, part_of_a_whole]


def gated(b):
    """What a gate scales has zeros beside its rows, which are scaled by nothing and stay."""
    x = b.act("Swish", b.conv("x", 6), alpha=1.0)
    return b.conv(b.gate(x), 5), True


def gated_and_read(b):
    x = b.act("Relu", b.conv("x", 6))
    return b.conv(b.concat(b.gate(x), x), 5), False


def squared(b):
    """Both operands lie where the product would: each is read before it is written, yet once."""
    x = b.act("Relu", b.conv("x", 6))
    return b.conv(b.add_skip(x, x, "Mul"), 5), False


def activated(b):
    x = b.add_skip(b.conv("x", 6), b.conv("x", 6), "Max")
    return b.conv(b.act("HardSwish", b.add_skip(x, b.gate(x), "Mul")), 5), True


ELEMENTWISE = [gated, gated_and_read, squared, activated]
