"""What is known of a processor, and that another one gets choices of its own."""

from __future__ import annotations

import ast

import numpy as np
import pytest
from paths import ROOT

from masktools.checkpoint import SparseWeight
from masktools.layout import BlockLayout
from runtime.cpu import calibration, processor
from runtime.cpu.choice.choose import choose_kernels
from runtime.cpu.choice.kernels import KERNELS
from runtime.cpu.kernels.problem import Problem
from runtime.cpu.kernels.schemes import efficiency
from runtime.cpu.kernels.windows import Outputs, choose_tiling
from runtime.cpu.machine import Machine, issued, machine_here, near_bytes
from runtime.cpu.memory.window import Window
from runtime.cpu.processor import Model, cache_bytes, cores, model
from runtime.cpu.weights.row_groups import Shape, shape_of

CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9654 96-Core Processor

processor\t: 1
model\t\t: 99
"""
SAPPHIRE_RAPIDS = Model("Intel(R) Xeon(R) Platinum 8480+", "GenuineIntel", 6, 0x8F)
ZEN4 = Model("AMD EPYC 9654 96-Core Processor", "AuthenticAMD", 25, 17)


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return a folder that stands for the root of a system with two cores of two threads."""
    monkeypatch.setattr(processor, "processors", lambda: {2, 3, 6, 7})
    cpus = "sys/devices/system/cpu"
    write(tmp_path, "proc/cpuinfo", CPUINFO)
    for number, siblings in ((2, "2,6"), (3, "3,7"), (6, "2,6"), (7, "3,7")):
        write(tmp_path, f"{cpus}/cpu{number}/topology/thread_siblings_list", siblings + "\n")
    caches = (("Data", 1, "32K"), ("Instruction", 1, "64K"), ("Unified", 2, "1M"))
    for index, (kind, level, size) in enumerate(caches):
        for name, text in (("type", kind), ("level", level), ("size", size)):
            write(tmp_path, f"{cpus}/cpu2/cache/index{index}/{name}", f"{text}\n")
    return tmp_path


def test_a_system_tells_its_model_and_its_caches(system):
    assert model(system) == ZEN4
    assert (cache_bytes(1, system), cache_bytes(2, system)) == (32 << 10, 1 << 20)


def test_processors_that_share_a_core_count_once(system):
    assert cores(system) == 2
    assert cores(system, {2, 6}) == 1
    assert cores(system, {2, 3, 6}) == 2


@pytest.mark.parametrize(
    ("group", "files", "granted"),
    [
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "350000 100000"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("0::/seen/from/outside\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/../up\n", {"cpu.max": "200000 100000"}, 2),
        ("3:cpu,cpuacct:/g\n0::/\n",
         {"cpu/g/cpu.cfs_quota_us": "400000", "cpu/g/cpu.cfs_period_us": "100000"}, 4),
        ("3:cpu:/g\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("3:cpu:/g\n", {"cpu/cpu.cfs_quota_us": "100", "cpu/cpu.cfs_period_us": "0"}, 8),
        ("nonsense", {"cpu.max": "half"}, 8),
    ],
)  # fmt: skip
def test_a_control_group_grants_whole_cores(tmp_path, group, files, granted):
    write(tmp_path, "proc/self/cgroup", group)
    for name, text in files.items():
        write(tmp_path, f"sys/fs/cgroup/{name}", text + "\n")
    assert cores(tmp_path, range(8)) == granted


def test_a_system_that_tells_nothing_is_taken_as_the_measured_one(tmp_path, monkeypatch):
    found = model(tmp_path)
    assert (found.vendor, found.family, found.model) == ("", 0, 0)
    assert cache_bytes(1, tmp_path) is None
    assert cores(tmp_path, {0, 4}) == 2
    monkeypatch.setattr(processor, "cache_bytes", lambda level: None)
    monkeypatch.setattr(processor, "model", lambda: Model("unheard of"))
    machine_here.cache_clear()
    assert machine_here(16, 3) == Machine(16, 3)
    machine_here.cache_clear()


@pytest.mark.parametrize("size", ["", "K", "0K", "1.5M", "48G", "-1K"])
def test_sizes_of_caches_that_make_no_sense_are_not_told(system, size):
    write(system, "sys/devices/system/cpu/cpu2/cache/index0/size", size)
    assert cache_bytes(1, system) is None


def test_a_fast_third_level_counts_as_near():
    assert near_bytes(ZEN4, 1 << 20) == 2 << 20
    assert near_bytes(SAPPHIRE_RAPIDS, 2 << 20) == 2 << 20
    assert near_bytes(Model("unheard of"), 1 << 20) == 1 << 20


def test_this_machine_is_taken_as_its_system_tells():
    made = machine_here(16, 2)
    assert made.vector == 16
    assert made.threads == 2
    assert made.level1 == (processor.cache_bytes(1) or calibration.LEVEL1)
    level2 = processor.cache_bytes(2) or calibration.LEVEL2
    assert made.near == near_bytes(processor.model(), level2)
    assert 1 <= cores() <= len(processor.processors())


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (SAPPHIRE_RAPIDS, (2, 2)),
        (ZEN4, (1, 1)),
        (Model("AMD EPYC", "AuthenticAMD", 26, 2), (2, 2)),
        (Model("AMD Ryzen AI 9 HX 370", "AuthenticAMD", 26, 0x24), (1, 1)),
        (Model("11th Gen Intel(R) Core(TM) i7-1165G7", "GenuineIntel", 6, 0x8C), (1, 2)),
        (Model("Intel(R) Xeon(R) Silver 4110 CPU @ 2.10GHz", "GenuineIntel", 6, 0x55), (1, 2)),
        (Model("Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz", "GenuineIntel", 6, 0x55), (2, 2)),
        (Model("Intel(R) Xeon(R) Gold 5512U", "GenuineIntel", 6, 0xCF), (2, 2)),
        (Model("unheard of"), (2, 2)),
    ],
)
def test_how_many_wide_multiplications_begin_in_a_cycle(known, expected):
    assert issued(known, 16) == expected
    assert issued(known, 8) == (2, 2)


def rows(size, lanes, machine):
    """Return the kernel and the tiling of a layer of single rows."""
    mask = np.random.default_rng(0).random((64, 64, 3, 3)) < 0.2
    weight = SparseWeight.from_dense(mask.astype(np.float32), BlockLayout(mask.shape, ()), mask)
    window = Window((3, 3), pads=(1, 1))
    made = Problem(weight, shape_of(weight), size, size, lanes, (size, size), window)
    outputs = Outputs(size, size, lanes)
    (kernel,) = choose_kernels([made], machine, KERNELS)
    tiling, _ = choose_tiling(Shape(64, 64, 9), window, outputs, weight.stored, machine)
    return kernel.name, tiling


def test_another_machine_gets_choices_of_its_own():
    """Zen 4 has a smaller first level, and computes 512 bits in halves."""
    intel = Machine(16, 2, 48 << 10, 2 << 20, 2, 2)
    amd = Machine(16, 2, 32 << 10, 1 << 20, 1, 1)
    assert rows(32, 64, intel) != rows(32, 64, amd)
    assert amd.rate == intel.rate / 2


def test_low_groups_come_nearer_to_the_peak_where_loads_are_many():
    narrow, wide = Machine(16, 2), Machine(16, 2, multiplications=1, loads=2)
    for height in range(1, 9):
        assert efficiency(height, narrow) == calibration.GROUP_EFFICIENCY[height]
        assert efficiency(height, narrow) <= efficiency(height, wide) <= 0.88
    assert efficiency(1, wide) == 2 * efficiency(1, narrow)
    assert efficiency(1, Machine(16, 2, multiplications=1, loads=1)) == efficiency(1, narrow)


def test_measured_constants_stand_in_one_file():
    """A fraction that a module of the CPU backend names is measured."""
    allowed = {
        "choose.py": {"MORE_SHARE"},  # of the file's size: what users pay, not what was measured
        "tuning.py": {"LEAST_TIMING"},
        "grouped.py": {"CONFIGURATIONS"},  # what is tried by timing
    }
    wrong = []
    for path in sorted((ROOT / "runtime" / "cpu").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.Assign) or path.name == "calibration.py":
                continue
            fractions = [
                n.value for n in ast.walk(node.value)
                if isinstance(n, ast.Constant) and isinstance(n.value, float)
            ]  # fmt: skip
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            if fractions and not names & allowed.get(path.name, set()):
                wrong.append((path.name, sorted(names)))
    assert wrong == []
