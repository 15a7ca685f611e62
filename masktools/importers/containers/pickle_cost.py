"""Walk through a pickle before anything of it is made: what it would call, hash and allocate.

A pickle is a program for a small machine with a stack. This one runs it on stand-ins that know
their sizes alone, and refuses what no pickler writes or what would cost more than
`masktools.limits` allows: keys whose hash takes for ever or overflows the C stack, memo numbers
that the C unpickler makes room for, copies of one thing over and over.
"""

from __future__ import annotations

import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Collection, Sequence
from io import BytesIO
from pickletools import genops
from typing import Any

from masktools import limits

# Build something out of members that they hash.
_HASHING = (
    "collections.OrderedDict",
    "collections.Counter",
    "collections.defaultdict",
    "builtins.dict",
    "builtins.set",
)
_CALLS_ITS_ARGUMENT = "torch._tensor._rebuild_from_type_v2"


class CostError(ValueError):
    """A pickle that would cost too much, or that no pickler writes."""


class _Name:
    """A global: the name of a class or function."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Tuple:
    """A tuple or frozenset: how deep it nests others, and the parts that a walk meets."""

    def __init__(self, parts: list[Any]) -> None:
        inner = [part for part in parts if isinstance(part, _Tuple)]
        self.parts = parts
        self.depth: int = 1 + max((part.depth for part in inner), default=0)
        self.weight: int = 1 + len(parts) + sum(part.weight for part in inner)
        if self.depth > limits.PICKLE_DEPTH:
            raise CostError(f"tuples are nested more than {limits.PICKLE_DEPTH} deep")
        if self.weight > limits.PICKLE_STEPS:
            raise CostError(
                f"a tuple holds more than {limits.PICKLE_STEPS} parts, shared ones again"
            )


class _Made:
    """A dict, a set or the result of a call; a list is a Python list, text is str, others None."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.size = 0


def check_pickle(file: BytesIO, callable_names: Collection[str]) -> None:
    """Walk through one pickle, up to its end.

    Parameters
    ----------
    file : BytesIO
        Left behind the pickle.
    callable_names : collection of str
        Globals that may be called.

    Raises
    ------
    CostError
        If it costs more than `masktools.limits` allows.
    pickle.UnpicklingError
        If it calls something else.
    ValueError, IndexError, KeyError
        If it is damaged.
    """
    walk = _Walk(file.getbuffer().nbytes, callable_names)
    for op, arg, _ in genops(file):
        walk.step(op.name, arg)


class _Walk:
    def __init__(self, size: int, callable_names: Collection[str]) -> None:
        self.callable_names = callable_names
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # what lies under each mark
        self.memo: dict[int, Any] = {}
        self.steps = 0
        self.keys = 0
        self.copied = 0
        self.room = limits.room(size)

    def step(self, op: str, arg: Any) -> None:  # noqa: ANN401 - an opcode's argument
        self.spend(1)
        if op in _LEAVES:
            self.stack.append(arg if isinstance(arg, str) else None)
        elif op in _ACTIONS:
            _ACTIONS[op](self, arg)
        elif op not in _NOTHING:
            raise CostError(f"opcode {op}, which no pickler writes for arrays")

    def spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps > limits.PICKLE_STEPS:
            raise CostError(f"it takes more than {limits.PICKLE_STEPS} steps")

    def marked(self) -> list[Any]:
        """Pop everything above the last mark of the stack."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def last(self, number: int) -> list[Any]:
        """Pop the given number of items from the top of the stack."""
        if len(self.stack) < number:
            raise IndexError("a pickle takes more than it has")
        items = self.stack[len(self.stack) - number :]
        del self.stack[len(self.stack) - number :]
        return items

    def remember(self, number: int) -> None:
        # Each number that a pickler gives is the count of those before. The C unpickler makes room
        # up to the number that it meets.
        if number > self.steps:
            raise CostError(f"memo number {number} after {self.steps} steps")
        self.memo[number] = self.stack[-1]

    def add(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise CostError("it appends to what is no list")
        self.stack[-1].extend(items)

    def set(self, items: list[Any]) -> None:
        self._fill(("builtins.dict", *_HASHING[:3]), items[::2])

    def add_members(self, items: list[Any]) -> None:
        self._fill(("builtins.set",), items)

    def _fill(self, kinds: Sequence[str], keys: list[Any]) -> None:
        made = self.stack[-1]
        if not isinstance(made, _Made) or made.kind not in kinds:
            raise CostError(f"it fills what is no {kinds[0].removeprefix('builtins.')}")
        made.size += len(keys)
        for key in keys:
            self.hash(key)

    def freeze(self, items: list[Any]) -> None:
        for item in items:
            self.hash(item)
        self.stack.append(_Tuple(items))

    def hash(self, key: Any) -> None:  # noqa: ANN401 - a stand-in
        if isinstance(key, str):
            return
        self.keys += 1
        if self.keys > limits.PICKLE_KEYS:
            raise CostError(f"more than {limits.PICKLE_KEYS} keys are no text")
        if isinstance(key, _Tuple) and (
            key.depth > limits.PICKLE_KEY_DEPTH or key.weight > limits.PICKLE_KEY_SIZE
        ):
            raise CostError(
                f"a key is a tuple of {key.weight} parts, {key.depth} deep; "
                f"{limits.PICKLE_KEY_SIZE} and {limits.PICKLE_KEY_DEPTH} are allowed"
            )

    def call(self, function: Any, arguments: Any) -> None:  # noqa: ANN401 - stand-ins
        """Check a call, and put its result on the stack."""
        if not isinstance(function, _Name) or not isinstance(arguments, _Tuple):
            raise CostError("it calls what is no global")
        name, parts = function.name, arguments.parts
        if name not in self.callable_names:
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {name}")
        self.use(arguments)
        if name == "_codecs.encode" and parts and isinstance(parts[0], str):
            self.copied += len(parts[0])
            if self.copied > self.room:
                raise CostError(f"it makes more than {self.room} bytes of the text that it holds")
        if name in _HASHING:
            for part in parts:
                for member in part if isinstance(part, list) else ():
                    # Old dicts were written as a list of [key, value].
                    self.hash(member[0] if isinstance(member, list) and member else member)
        made = _Made(name)
        made.size = sum(_size(part) for part in parts)
        if name == _CALLS_ITS_ARGUMENT and len(parts) > 2:
            self.call(parts[0], parts[2])
        else:
            self.stack.append(made)

    def use(self, value: Any) -> None:  # noqa: ANN401 - a stand-in
        """Count the parts of what a call may copy: cheap to name again and again."""
        parts = value.parts if isinstance(value, _Tuple) else [value]
        self.spend(_size(value) + sum(_size(part) for part in parts))

    def build(self) -> None:
        target, state = self.last(2)
        if not isinstance(target, _Made):
            raise CostError("it sets the state of what it did not make")
        self.use(state)
        self.stack.append(target)

    def name(self, module: str, name: str) -> None:
        # Python 2's names, as the unpicklers take them.
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        self.stack.append(_Name(f"{module}.{name}"))

    def name_from_stack(self) -> None:
        module, name = self.last(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise CostError("the name of a global is no text")
        self.name(module, name)

    def persistent(self) -> None:
        if not isinstance(self.last(1)[0], _Tuple):
            raise CostError("a storage's description is no tuple")
        self.stack.append(_Made("storage"))

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []


def _size(part: Any) -> int:  # noqa: ANN401 - a stand-in
    if isinstance(part, list):
        return len(part)
    if isinstance(part, _Tuple):
        return part.weight
    return part.size if isinstance(part, _Made) else 0


# What picklers of protocol 2 to 5 write. LONG4 is not among it: integers of over 255 bytes.
_NOTHING = frozenset(("PROTO", "FRAME", "STOP"))
_PLAIN = """
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINSTRING SHORT_BINSTRING BINUNICODE
    SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
"""
_LEAVES = frozenset(_PLAIN.split())
_ACTIONS: dict[str, Callable[[_Walk, Any], object]] = {
    "EMPTY_TUPLE": lambda walk, _: walk.stack.append(_Tuple([])),
    "TUPLE1": lambda walk, _: walk.stack.append(_Tuple(walk.last(1))),
    "TUPLE2": lambda walk, _: walk.stack.append(_Tuple(walk.last(2))),
    "TUPLE3": lambda walk, _: walk.stack.append(_Tuple(walk.last(3))),
    "TUPLE": lambda walk, _: (lambda items: walk.stack.append(_Tuple(items)))(walk.marked()),
    "FROZENSET": lambda walk, _: walk.freeze(walk.marked()),
    "EMPTY_LIST": lambda walk, _: walk.stack.append([]),
    "APPEND": lambda walk, _: walk.add(walk.last(1)),
    "APPENDS": lambda walk, _: walk.add(walk.marked()),
    "EMPTY_DICT": lambda walk, _: walk.stack.append(_Made("builtins.dict")),
    "SETITEM": lambda walk, _: walk.set(walk.last(2)),
    "SETITEMS": lambda walk, _: walk.set(walk.marked()),
    "EMPTY_SET": lambda walk, _: walk.stack.append(_Made("builtins.set")),
    "ADDITEMS": lambda walk, _: walk.add_members(walk.marked()),
    "MARK": lambda walk, _: walk.mark(),
    "POP": lambda walk, _: walk.last(1),
    "POP_MARK": lambda walk, _: walk.marked(),
    "BINPUT": lambda walk, number: walk.remember(number),
    "LONG_BINPUT": lambda walk, number: walk.remember(number),
    "MEMOIZE": lambda walk, _: walk.remember(len(walk.memo)),
    "BINGET": lambda walk, number: walk.stack.append(walk.memo[number]),
    "LONG_BINGET": lambda walk, number: walk.stack.append(walk.memo[number]),
    "GLOBAL": lambda walk, names: walk.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda walk, _: walk.name_from_stack(),
    "REDUCE": lambda walk, _: walk.call(*walk.last(2)),
    "NEWOBJ": lambda walk, _: walk.call(*walk.last(2)),
    "BUILD": lambda walk, _: walk.build(),
    "BINPERSID": lambda walk, _: walk.persistent(),
}
