"""Faults that are planted are found, and shrunk to what shows them."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import network_campaign
import numpy as np
import pytest
from network_campaign import drawn_ways
from network_checks import Check, Failure, Way, cpu_ways, distance
from random_networks import draw
from recipes import Network, Tensor
from shrinking import shrink

from masktools.network.graph import Node
from runtime.cpu.native import VARIANTS
from runtime.errors import PlanError
from runtime.plan import steps
from runtime.reference.backend import ReferenceBackend

WAY = Way("reference")
RELU = Network({"x": (None, 3, 4)}, (Node("n", "Relu", ("x",), ("y",)),), ("y",))


class Planted(ReferenceBackend):
    """The reference with a fault: `plan` may change the plan, `outputs` what comes out."""

    def __init__(self, plan=lambda plan: plan, outputs=lambda outputs, call: outputs):
        self._change, self._spoil, self._calls = plan, outputs, 0

    def __call__(self, name):
        return self

    def compile(self, plan, input_shapes, dtype, threads):
        made = super().compile(self._change(plan), input_shapes, dtype, threads)

        def run(inputs, seconds=None):
            self._calls += 1
            return self._spoil(made.run(inputs, seconds), self._calls)

        return SimpleNamespace(run=run)


def changed(kind, change):
    """Return what changes all steps of a kind."""
    return lambda plan: replace(
        plan, steps=tuple(change(s) if isinstance(s, kind) else s for s in plan.steps)
    )


def turned(step):
    return replace(step, inputs=step.inputs[::-1]) if step.axis == 2 else step


TURNED = changed(steps.Concat, turned)


def each(change):
    return lambda outputs, call: {name: change(y, call) for name, y in outputs.items()}


def failing(error):
    def raises(*_):
        raise error

    return raises


def kind_of(network, backend):
    failure = Check(network).failure(WAY, backend)
    return failure and failure.kind


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ({}, None),
        ({"outputs": each(lambda y, call: y * np.float32(1 + 2.0**-18))}, "wrong"),
        ({"outputs": each(lambda y, call: y.astype(np.float64))}, None),  # the model's own type
        ({"outputs": each(lambda y, call: y[..., :1])}, "shape"),
        ({"outputs": each(lambda y, call: y + np.float32(2.0**-20 * (call > 1)))}, "unsteady"),
        ({"outputs": each(lambda y, call: y + np.float32(2.0**-20 * (call > 3)))}, "unsteady"),
        ({"outputs": each(lambda y, call: np.abs(y + 0 * y.mean(axis=0)))}, "spilt"),
        ({"plan": failing(PlanError("no"))}, "refused"),
        ({"plan": failing(KeyError("x"))}, "raw KeyError"),
    ],
)  # fmt: skip
def test_each_kind_of_fault_is_found(fault, kind):
    assert kind_of(RELU, Planted(**fault)) == kind


def test_results_that_share_memory_and_inputs_that_change_are_found():
    kept = np.zeros((2, 3, 4), np.float32)

    def shared(y, call):
        kept[...] = y
        return kept

    def write(outputs, call):
        outputs["y"] *= -1
        return outputs

    assert kind_of(RELU, Planted(outputs=each(shared))) == "unsteady"
    through = Network({"y": (None, 3)}, (Node("n", "Relu", ("y",), ("z",)),), ("y", "z"))
    assert kind_of(through, Planted()) is None
    backend = Planted()
    backend.compile = lambda *_: SimpleNamespace(
        run=lambda inputs, seconds=None: write({**inputs, "z": np.maximum(inputs["y"], 0)}, 0)
    )
    assert kind_of(through, backend) == "input changed"


def test_numbers_that_are_none_are_compared():
    a = np.array([1, np.nan, np.inf, -np.inf])
    assert distance(a, a) == 0
    for i in range(4):
        for other in (np.nan, np.inf, 2.0):
            b = a.copy()
            b[i] = other
            same = other == a[i] or (np.isnan(other) and i == 1)
            assert distance(b, a) == (0 if same else 1 if (i, other) == (0, 2.0) else np.inf)


def test_a_fault_of_one_axis_of_one_operator_is_found_and_shrunk():
    """In whatever network it shows; what is left is that operator, and little of that."""
    backend, found = Planted(TURNED), 0
    for seed in range(120):
        network = draw(seed)
        failure = Check(network).failure(WAY, backend)
        if failure is None:
            continue
        found += 1
        assert failure.kind == "wrong"
        small = shrink(network, failure, lambda check: check.failure(WAY, backend))
        assert kind_of(small, backend) == "wrong"
        (node,) = small.nodes
        assert (node.op, node.attributes, len(node.inputs)) == ("Concat", {"axis": 2}, 2)
        assert not small.tensors
        assert all(np.prod(shape[1:]) <= 1 for shape in small.inputs.values())
        assert small.batches == (1,)
    assert found > 2


def test_a_fault_of_weights_keeps_what_it_needs():
    """A convolution whose padding is forgotten on one side, of a weight in blocks alone."""

    def forget(step):
        sparse = not isinstance(step.weight, np.ndarray)
        if not (sparse and step.weight.layout.blocks and step.pads[1]):
            return step
        return replace(step, bias=np.ones(step.weight_shape[0], np.float32))

    backend = Planted(changed(steps.Convolution, forget))
    seed, failure = next(
        (seed, failure)
        for seed in range(100)
        if (failure := Check(draw(seed)).failure(WAY, backend)) and len(draw(seed).nodes) > 4
    )
    small = shrink(draw(seed), failure, lambda check: check.failure(WAY, backend))
    (node,), (tensor,) = small.nodes, small.tensors.values()
    assert node.op == "Conv"
    assert (sum(node.attributes["pads"]), node.attributes["group"]) == (1, 1)
    assert tensor.form in ("blocks", "both")
    assert np.prod(tensor.shape) <= 8


def test_a_failure_is_not_shrunk_to_another():
    """Raw errors stay of their type: what fails otherwise, on the way, is passed over."""

    def change(plan):
        if any(isinstance(step, steps.Concat) for step in plan.steps):
            raise KeyError("concat")
        raise IndexError("none")

    backend = Planted(change)
    network = next(n for n in map(draw, range(50)) if kind_of(n, backend) == "raw KeyError")
    small = shrink(network, Failure("raw KeyError", ""), lambda c: c.failure(WAY, backend))
    assert [node.op for node in small.nodes] == ["Concat"]


def test_bounds_grow_with_depth_and_sums_and_no_more():
    """A layer may be off by little; a long chain by more; both by far less than numbers are."""

    def chain(length, columns, dtype):
        nodes = tuple(
            Node(f"n{i}", "Gemm", (f"t{i}", f"w{i}.weight"), (f"t{i + 1}",), {"transB": 1})
            for i in range(length)
        )
        weight = Tensor((columns, columns), "weight")
        tensors = {f"w{i}.weight": replace(weight, seed=i) for i in range(length)}
        network = Network({"t0": (None, columns)}, nodes, (f"t{length}",), tensors, (16,))
        return Check(network).bound(16, dtype)[f"t{length}"]

    for dtype, unit in (("float32", 2.0**-24), ("bfloat16", 2.0**-8)):
        bounds = [chain(1, 8, dtype), chain(1, 256, dtype), chain(8, 256, dtype)]
        assert bounds[0] < bounds[1] < bounds[2]
        assert 4 * unit < bounds[0] < 100 * unit
        assert bounds[2] < 4000 * unit


def test_ways_are_drawn_evenly_and_the_same_for_a_seed():
    ways = [Way("cpu", isa, "float32", n) for isa in VARIANTS for n in (1, 2, 3)]
    assert drawn_ways(ways, 0, 1) == ways
    assert {way for seed in range(40) for way in drawn_ways(ways, 2, seed)} == set(ways)
    assert drawn_ways(ways, 2, 5) == drawn_ways(ways, 2, 5)


def test_variants_that_cannot_run_are_left_out(monkeypatch):
    monkeypatch.setenv("MASKTOOLS_CPU_ISA", "portable")
    assert {way.isa for way in cpu_ways(("portable", "neon9"), threads=(1,))} == {"portable"}
    assert {way.dtype for way in cpu_ways(("portable",), threads=(1,))} == {"float32"}


# --- processes ---------------------------------------------------------------------------------


def options(**changes):
    return SimpleNamespace(
        **{"backend": "cpu", "isa": "portable", "dtype": "float32", "threads": "1", "ways": 1},
        **changes,
    )


def test_a_network_that_kills_its_process_is_found_and_shrunk(monkeypatch):
    """The networks before and behind it are run all the same."""
    ran = []

    def run(command, **_):
        if "-c" in command:  # one network by itself: it is the Concat that kills
            return SimpleNamespace(returncode=-11 if "Concat" in command[-1] else 0)
        given = dict(word[2:].split("=") for word in command if "=" in word)
        seeds = range(int(given["first"]), int(given["first"]) + int(given["count"]))
        ran.append(seeds)
        at = next((s for s in seeds if any(n.op == "Concat" for n in draw(s).nodes)), None)
        if at is not None:
            return SimpleNamespace(returncode=-11, stderr=f"at {seeds[0]}\nat {at}\n")
        made = {"runs": {"cpu": len(seeds)}, "failures": []}
        return SimpleNamespace(returncode=0, stdout=json.dumps(made) + "\n")

    monkeypatch.setattr(network_campaign.subprocess, "run", run)
    made = network_campaign._apart(options(), 0, 12)
    killers = [s for s in range(12) if any(n.op == "Concat" for n in draw(s).nodes)]
    assert [failed["seed"] for failed in made["failures"]] == killers
    assert {failed["text"].split()[-1] for failed in made["failures"]} == {"SIGSEGV"}
    assert all(failed["script"].count("Node(") == 1 for failed in made["failures"])
    assert made["runs"]["cpu"] == 12 - len(killers)


def test_the_program_runs_and_counts(monkeypatch, capsys):
    arguments = "random_networks.py --count 3 --isa portable --dtype float32 --threads 1,2 --ways 1"
    monkeypatch.setattr("sys.argv", arguments.split())
    with pytest.raises(SystemExit) as ended:
        network_campaign.main()
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "3 networks from seed 0, 6 runs" in said
    assert "cpu portable float32: 3; reference float32: 3" in said
    assert "none wrong, none raw, none refused" in said
