"""No table forgets an operator, a kind of step or an activation: each test names what is missing.

docs/contributing/operator.md goes through these tables one by one.
"""

from __future__ import annotations

import inspect
import re

import pytest
from paths import ROOT

from masktools.checkpoint.metadata import VERSION
from masktools.network.onnx.rewrites.table import REWRITES
from masktools.network.operators import OPERATORS
from masktools.network.operators.elementwise import FUNCTIONS
from runtime.cpu import steps as cpu_steps
from runtime.cuda import layers as cuda_layers
from runtime.cuda import steps as cuda_steps
from runtime.plan import steps
from runtime.plan.lowering import LOWERING
from runtime.plan.steps import ACTIVATIONS
from runtime.reference import activations
from runtime.reference import steps as reference_steps


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def documented():
    """Return the operators in the table of docs/format.md, and those whose meaning stands below."""
    _, _, rest = text("docs/format.md").partition("| operator | inputs | attributes |\n")
    rows, _, meanings = rest.partition("\n\n")
    firsts = [row.split("|")[1] for row in rows.splitlines()]
    titles = re.findall(r"\*\*([\w, ]+)\*\*:", meanings)
    return set(re.findall(r"`(\w+)`", "".join(firsts))), set(", ".join(titles).split(", "))


# What ONNX says of these is all there is to say.
PLAIN = {"Relu", "Sigmoid", "Identity", "Concat", "Split", "Transpose"}


def differences(wanted, table):
    """Return what a table lacks, and what it has although nothing wants it."""
    wanted, table = set(wanted), set(table)
    found = {"missing": sorted(wanted - table), "unknown": sorted(table - wanted)}
    return {kind: names for kind, names in found.items() if names}


def test_differences_are_seen():
    assert differences({"Relu", "Clip"}, {"Relu": 0, "Elu": 1}) == {
        "missing": ["Clip"],
        "unknown": ["Elu"],
    }
    assert differences({"Relu"}, ["Relu"]) == {}


@pytest.mark.parametrize(
    ("where", "table"),
    [
        ("runtime/plan/lowering", LOWERING),
        ("the table in docs/format.md", documented()[0]),
        ("the meanings in docs/format.md", documented()[1] | PLAIN),
        # The reader turns some operators of ONNX into others, which no network keeps.
        ("masktools/network/onnx/rewrites/table.py", set(REWRITES) & set(OPERATORS)),
    ],
)
def test_every_operator_is_in_every_table(where, table):
    assert differences(OPERATORS, table) == {}, where


# Frozen: a file of version 1 that held another operator could not be read by its readers.
VERSION_1 = """
    Add AveragePool BatchNormalization Clip Concat Conv Div Flatten Gemm GlobalAveragePool
    HardSigmoid HardSwish Identity LeakyRelu MaxPool Mul Pad ReduceMean Relu Reshape Resize Sigmoid
    Slice Softmax Split Squeeze Sub Transpose Unsqueeze
"""


def test_every_operator_says_which_version_of_the_format_knows_it():
    _, _, rest = text("docs/format.md").partition("| version | what is new |\n|---|---|\n")
    rows = [row.split("|")[1:3] for row in rest.partition("\n\n")[0].splitlines()]
    known = {int(version): re.findall(r"`([A-Z]\w+)`", new) for version, new in rows}
    assert max(known) == VERSION
    known[1] = VERSION_1.split()
    said = {f"{name} in {operator.version}" for name, operator in OPERATORS.items()}
    documented = {f"{name} in {version}" for version, names in known.items() for name in names}
    assert differences(documented, said) == {}, "docs/format.md, and `version` in the rows"


def kinds_of_steps():
    """Return the classes of steps that a plan may hold: those that no other is made of."""
    classes = [
        c for _, c in inspect.getmembers(steps, inspect.isclass) if issubclass(c, steps.Step)
    ]
    return {c.__name__ for c in classes if not c.__subclasses__()}


@pytest.mark.parametrize(
    ("where", "table"),
    [
        ("runtime/reference/steps.py", reference_steps.KERNELS),
        # Layers are handed to the kernel that was chosen for them, by `_Emitter.steps`.
        ("runtime/cpu/steps.py", [*cpu_steps._EMITTERS, steps.Convolution, steps.Product]),
        ("runtime/cuda/steps.py, layers.py", [*cuda_steps.LAUNCHES, *cuda_layers.ADDRESSES]),
    ],
)
def test_every_backend_knows_every_kind_of_step(where, table):
    assert differences(kinds_of_steps(), {kind.__name__ for kind in table}) == {}, where


def members(file, enum):
    """Return the members of an enum in a C++ file without their casing: HARD_SWISH, kHardSwish."""
    (found,) = re.findall(rf"enum {enum}[^{{]*{{([^}}]*)}}", text(file))
    return [re.sub(r"^\s*k(?=[A-Z])|_|\s", "", name).lower() for name in found.split(",")]


@pytest.mark.parametrize(
    ("file", "enum"),
    [("cpu/simd/activation.h", "class Op"), ("cuda/activation.cuh", "ActivationOp")],
)
def test_activations_have_the_numbers_of_the_kernels(file, enum):
    _none, *known = members(file, enum)
    assert {op.lower(): number for op, number in ACTIVATIONS.items()} == {
        op: number for number, op in enumerate(known, 1)
    }


def written(file, pattern):
    """Return what matches in a C++ file: members of its enum."""
    return set(re.findall(pattern, text(file))) - {"None", "IDENTITY"}


def shouted(op):
    """Return an operator's name as cuda/activation.cuh has it: HARD_SWISH."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", op).upper()


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("cpu/binding/arguments.cpp", r'\{"(\w+)", Op::k\1\}'),
        ("cpu/simd/activate.cpp", r"activate_as<Activation::Op::k(\w+)>\("),
        ("cpu/simd/functions.h", r"case Activation::Op::k(\w+):\n      return (?!true)"),
        ("tests/cpp/definitions.h", r"case Activation::Op::k(\w+):"),
        ("tests/cpp/definitions.h", r"\{Activation::Op::k(\w+),"),
    ],
)
def test_every_activation_is_in_the_code_of_the_processor(file, pattern):
    assert differences(ACTIVATIONS, written(file, pattern)) == {}, file


@pytest.mark.parametrize("pattern", [r"if constexpr \(OP == (\w+)\)", r"case (\w+):"])
def test_every_activation_is_in_the_code_of_the_device(pattern):
    known = written("cuda/activation.cuh", pattern)
    assert differences(map(shouted, ACTIVATIONS), known) == {}, "cuda/activation.cuh"


def test_every_operator_is_compared_with_onnxruntime():
    tests = ROOT / "tests"
    files = [tests / "support/onnx_operators.py"]
    files += (tests / "masktools/network/operators").glob("test_*.py")
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [op for op in OPERATORS if f'"{op}"' not in source] == []


@pytest.mark.parametrize(
    "file",
    [
        "tests/runtime/cpu/steps/test_elementwise.py",
        "tests/runtime/cuda/test_steps.py",
        "tests/support/cuda_convolutions.py",
    ],
)
def test_every_activation_is_tested(file):
    assert [op for op in ACTIVATIONS if f'"{op}"' not in text(file)] == [], file


@pytest.mark.parametrize(
    ("where", "table"),
    [
        ("masktools/network/operators/elementwise.py", FUNCTIONS),
        ("runtime/reference/activations.py", activations.ACTIVATIONS),
    ],
)
def test_every_activation_is_in_every_table(where, table):
    assert differences(ACTIVATIONS, table) == {}, where
