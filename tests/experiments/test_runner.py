"""Experiments run from a configuration to results, a picture and a table; the same run twice."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import ROOT

sys.path.append(str(ROOT))

from experiments import pictures, runner, tables
from experiments.__main__ import main
from experiments.configuration import Arm, of
from experiments.data import Images, characters, digits
from experiments.masks import POSTS, SOURCES, Found, found_by
from experiments.training import Task
from masktools.tickets import find_ticket, sources
from masktools.tickets.retraining import Retraining, Run
from masktools.tickets.states import density, kept

TINY = {
    "title": "Tiny",
    "question": "Does it run?",
    "picture": "density",
    "network": "tiny",
    "steps": 20,
    "rewind": 1,
    "batch": 32,
    "rounds": [1, 2],
    "arms": ["imp", "imp + refill"],
    "without_training": True,
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def task():
    return Task("tiny", 20, 32, digits())


@pytest.fixture(scope="module")
def search(task, tmp_path_factory):
    return find_ticket(
        task.train,
        task.initial(0),
        sources.magnitude(),
        total=20,
        rewind=1,
        rounds=2,
        skip=["stem"],
        folder=tmp_path_factory.mktemp("search"),
    )


def test_results_have_every_ticket_and_both_densities(tmp_path):
    configuration = of(TINY)
    results = json.loads(json.dumps(runner.run(configuration, tmp_path)))
    assert [(t["arm"], t["round"]) for t in results["tickets"]] == [
        ("imp", 1),
        ("imp", 2),
        ("imp + refill", 1),
        ("imp + refill", 2),
    ]
    for ticket in results["tickets"]:
        assert len(ticket["test"]) == len(ticket["validation"]) == 3
        assert ticket["density_before"] == pytest.approx(0.8 ** ticket["round"], abs=1e-3)
        assert set(ticket["layers"]) == {"conv1", "conv2"}
        assert len(ticket["without_training"]["statistics estimated again"]) == 3
    plain, whole = results["tickets"][0], results["tickets"][2]
    assert plain["density_after"] == plain["density_before"] < whole["density_after"]
    assert results["excluded"] == ["classifier", "stem"]
    assert results["configuration"]["arms"] == TINY["arms"]


def _no_training(task, state, masks, start, stop, seed):
    raise AssertionError("everything was trained before")


def test_the_same_run_gives_the_same_and_trains_nothing_again(tmp_path, monkeypatch):
    configuration = of(TINY | {"seeds": 1, "arms": ["imp + regroup-8"]})
    first = runner.run(configuration, tmp_path / "a")
    assert runner.run(configuration, tmp_path / "b") == first
    monkeypatch.setattr(Task, "train", _no_training)
    assert runner.run(configuration, tmp_path / "a") == first


def test_a_ticket_wins_by_its_mean_on_the_validation_set():
    """Not by the test set, and not with fewer than three seeds."""
    better, worse = _retraining([0.9, 0.9, 0.9], 0.5), _retraining([0.8, 0.8, 0.8], 0.9)
    configuration = of(TINY | {"without_training": False})
    trial = {
        runner.Ticket(Arm("imp"), 1, ""): [runner.Trial(better, 0.8, {}, {})],
        runner.Ticket(Arm("imp"), 2, ""): [runner.Trial(worse, 0.6, {}, {})],
    }
    dense = _retraining([0.9, 0.85, 0.9], 0.9)
    results = runner.results(configuration, [dense], trial)
    assert [t["wins"] for t in results["tickets"]] == [True, False]
    assert [t["within_spread"] for t in results["tickets"]] == [False, True]
    assert [t["extreme"] for t in results["tickets"]] == [True, False]


def _retraining(validation, test):
    runs = [Run(n, {"validation": v, "test": test}, "") for n, v in enumerate(validation)]
    return Retraining(Path(), 1.0, tuple(runs))


@pytest.mark.parametrize("source", [s for s in SOURCES if not s.endswith("channels")])
def test_all_sources_keep_what_iterative_pruning_keeps(source, task, search):
    found = found_by(source, task, search, 2, 0)
    assert list(found.masks) == ["conv1", "conv2"]
    assert kept(found.masks) == search.rounds[2].kept


@pytest.mark.parametrize("source", [s for s in SOURCES if s.endswith("channels")])
def test_channels_are_whole_and_about_as_many(source, task, search):
    found = found_by(source, task, search, 2, 0)
    for mask in found.masks.values():
        rows = mask.reshape(len(mask), -1)
        assert (rows.all(axis=1) | ~rows.any(axis=1)).all()
    assert density(found.masks) == pytest.approx(search.rounds[2].density, abs=0.05)


@pytest.mark.parametrize("post", POSTS)
def test_posts_keep_about_the_density_that_they_say(post, search):
    found = Found(search.masks(2), search.trained(1))
    with ThreadPoolExecutor(1) as executor:
        made = POSTS[post](found, executor, 0)
    before = density(found.masks)
    wanted = {"refill-plus": before + 0.2 * (1 - before)}.get(post, before)
    if post.endswith("paper-like"):
        wanted = sum(min(1, 1.7 * m.mean()) * m.size for m in found.masks.values()) / sum(
            m.size for m in found.masks.values()
        )
    assert density({n: np.asarray(made[n]) for n in found.masks}) == pytest.approx(wanted, abs=0.08)


def test_statistics_are_those_of_the_training_images(task):
    state = task.initial(0)
    again = task.estimated_again(state)
    with torch.no_grad():
        made = task.module(state)[0](task.data["training"].images)
    assert again["stem_norm.running_mean"] == pytest.approx(made.mean((0, 2, 3)).numpy(), abs=0.02)
    assert (again["stem.weight"] == state["stem.weight"]).all()


def test_parts_of_the_digits_do_not_overlap():
    parts = digits()
    assert [len(p.images) for p in parts.values()] == [1197, 240, 360]
    rows = [tuple(image.flatten().tolist()) for p in parts.values() for image in p.images]
    assert len(set(rows)) == len(rows)


def test_characters_are_of_all_classes_and_follow_from_the_seed():
    parts = characters(620, seed=1)
    assert [len(p.images) for p in parts.values()] == [496, 62, 62]
    assert set(torch.cat([p.labels for p in parts.values()]).tolist()) == set(range(62))
    images = parts["training"].images
    assert images.shape[1:] == (3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.flatten(1).std(1).min() > 0.03  # nothing is left blank
    assert (characters(620, seed=1)["training"].images == images).all()
    assert not (characters(620, seed=2)["training"].images == images).all()


@pytest.mark.parametrize("network", ["resnet18", "vgg16"])
def test_large_networks_take_characters(network):
    data = {part: Images(one.images[:4], one.labels[:4]) for part, one in characters(620).items()}
    data["training"].labels[0] = 61  # as many classes as there are
    task = Task(network, 2, 4, data)
    trained = task.train(task.initial(0), {}, 0, 1, 0)
    assert trained["classifier.weight"].shape == (62, 512)
    assert 0 <= task.accuracy(trained, "test") <= 1


def test_the_command_writes_results_picture_and_table(tmp_path, capsys):
    pytest.importorskip("tomllib")
    lines = [f"{key} = {json.dumps(value)}" for key, value in TINY.items()]
    (tmp_path / "tiny.toml").write_text("\n".join(lines))
    out = tmp_path / "out"
    out.mkdir()
    (out / "README.md").write_text("# A\n<!-- results: tiny -->\nold\n<!-- end -->\n")
    arguments = [str(tmp_path / "tiny.toml"), "--out", str(out), "--work", str(tmp_path / "work")]
    assert main([*arguments, "--seeds", "1"]) == 0
    results = json.loads((out / "tiny.json").read_text())
    assert results["seeds"] == [0]
    assert {"commit", "processor"} <= set(results["environment"])
    assert (out / "tiny.png").stat().st_size > 5000
    page = (out / "README.md").read_text()
    assert "| imp + refill | 0.640 |" in page
    assert "old" not in page
    assert "| imp + refill | 0.640 |" in capsys.readouterr().out


@pytest.mark.parametrize("axis", pictures.PICTURES)
def test_every_picture_is_drawn_the_same_twice(axis, tmp_path):
    ticket = {"round": 1, "start": "rewound", "test": [0.9, 0.8], "density_before": 0.5}
    ticket |= {"arm": "imp", "density_after": 0.5, "wins": True}
    other = ticket | {"arm": "imp + refill", "start": "fresh", "wins": False}
    results = {
        "configuration": {"picture": axis},
        "dense": {"test": [0.9, 0.9]},
        "tickets": [ticket, other],
    }
    for name in ("a.png", "b.png"):
        pictures.draw(results, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_tables_of_the_page_are_what_the_results_say():
    folder = ROOT / "docs" / "experiments"
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert tables.rendered(page, folder) == page, "run: python -m experiments"
    assert {path.stem for path in folder.glob("*.json")} == {
        found[2] for found in tables.MARKED.finditer(page)
    }
