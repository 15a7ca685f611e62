"""A search that is killed anywhere, or meets an error, goes on to the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from paths import ROOT, TESTS
from small_training import REWIND, TOTAL, Recorded, contents, initial, spread, train

from masktools import FormatError, TicketError
from masktools.tickets import Search, find_ticket, posts, retrain, sources

ROUNDS = 3
SCRIPT = """
import os, pathlib, signal, sys
import small_training, test_resuming
calls, dies_in, at = 0, sys.argv[2], int(sys.argv[3])

def die():
    global calls
    calls += 1
    if calls > at:
        os.kill(os.getpid(), signal.SIGKILL)

def train(*arguments):
    if dies_in == "train":
        die()
    return small_training.train(*arguments)

replace = pathlib.Path.replace
def dying(path, target):
    if dies_in == "write":
        die()
    return replace(path, target)
pathlib.Path.replace = dying
test_resuming.find(pathlib.Path(sys.argv[1]), train)
"""


def find(folder, training=train, **options):
    """Search with all that a round can have."""
    options = {"post": {"refill+": posts.refill(0.2)}, "evaluate": {"test": spread}} | options
    return find_ticket(
        training, initial(), sources.magnitude(), total=TOTAL, rewind=REWIND, rounds=ROUNDS,
        folder=folder, snapshots=[20], progress=False, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    find(folder)
    return contents(folder)


# Trainings: to the rewinding step, dense, the snapshot, three rounds. Writes: the settings, then
# two or three files and a record for each of seven entries.
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize(
    ("dies_in", "at"),
    [("train", 0), ("train", 2), ("train", 4)]
    + [("write", number) for number in (0, 1, 2, 5, 7, 10, 12, 13)],
)
def test_killed_and_resumed_is_the_same_to_the_byte(tmp_path, uninterrupted, dies_in, at):
    folder = tmp_path / "search"
    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT, folder, dies_in, str(at)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(
            map(str, (ROOT, TESTS / "support", TESTS / "masktools" / "tickets"))
        )},
        check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    left = contents(folder)
    assert left.keys() - {"settings.json"} != uninterrupted.keys() - {"settings.json"}
    if dies_in == "write":
        assert any(name.startswith(".") for name in left), "killed beside no file"
    training = Recorded()
    find(folder, training)
    done = sum(name.endswith(".json") and name[0] in "rd" for name in left)
    assert len(training.calls) == 7 - max(done, 1)  # the state at step 0 is trained by nobody
    assert contents(folder) == uninterrupted


@pytest.mark.parametrize("bad", range(6))
def test_an_error_in_a_round_keeps_the_rounds_before(tmp_path, uninterrupted, bad):
    class Breaks(Recorded):
        def __call__(self, *arguments):
            state = super().__call__(*arguments)
            if len(self.calls) > bad:
                state["conv.weight"][0, 0, 0, 0] = float("nan")
            return state

    with pytest.raises(TicketError, match=r"'conv\.weight' with nan at \(0, 0, 0, 0\)"):
        find(tmp_path, Breaks())
    found = contents(tmp_path)
    assert all(uninterrupted[name] == content for name, content in found.items())
    there = len(Search.load(tmp_path).rounds)
    assert there == (0, 0, 1, 1, 2, 3)[bad]
    find(tmp_path)
    assert contents(tmp_path) == uninterrupted


def test_an_error_of_the_users_own_comes_through_as_it_is(tmp_path, uninterrupted):
    class FullError(Exception):
        pass

    def fails(state, masks):
        raise FullError("no room")

    with pytest.raises(FullError, match=r"^no room$"):
        find(tmp_path, post={"refill+": fails})
    assert len(Search.load(tmp_path).rounds) == 1
    find(tmp_path)
    assert contents(tmp_path) == uninterrupted


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"rate": 0.3}, "rate"),
        ({"seed": 1}, "seed"),
        ({"schedule": "full"}, "schedule"),
        ({"post": {"refill": posts.refill()}}, "post"),
        ({"evaluate": None}, "evaluate"),
        ({"group_aware": posts.refill()}, "group_aware"),
        ({"skip": ["stem"]}, "layers"),
    ],
)
def test_other_arguments_need_another_folder(tmp_path, options, name):
    find(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(FormatError, match=f"another {name}: .*name another folder"):
        find(tmp_path, **options)
    assert contents(tmp_path) == before


def test_another_network_needs_another_folder(tmp_path):
    arguments = {"total": TOTAL, "rewind": REWIND, "rounds": 0, "folder": tmp_path}
    find_ticket(train, initial(), sources.magnitude(), progress=False, **arguments)
    with pytest.raises(FormatError, match="another state"):
        find_ticket(train, initial(1), sources.magnitude(), progress=False, **arguments)


def test_a_damaged_file_is_named_and_made_again_once_its_record_is_gone(tmp_path, uninterrupted):
    find(tmp_path)
    trained = tmp_path / "round_02_trained.safetensors"
    trained.write_bytes(trained.read_bytes()[:-1] + b"\x00")
    with pytest.raises(FormatError, match=r"round_02_trained.*remove round_02\.json"):
        Search.load(tmp_path).trained(2)
    for name in ("round_02.json", "round_03.json"):
        (tmp_path / name).unlink()
    find(tmp_path)
    assert contents(tmp_path) == uninterrupted


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "other"}', "{" * 9])
def test_what_is_no_search_is_refused(tmp_path, content):
    (tmp_path / "settings.json").write_text(content)
    before = contents(tmp_path)
    with pytest.raises(FormatError, match=r"settings\.json"):
        find(tmp_path)
    with pytest.raises(FormatError, match=r"settings\.json"):
        Search.load(tmp_path)
    assert contents(tmp_path) == before


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(FormatError, match="not empty, and holds no search"):
        find(tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"all of it"}
    with pytest.raises(FormatError, match="it is a file"):
        find(tmp_path / "thesis.tex")
    with pytest.raises(FormatError, match=r"settings\.json"):
        Search.load(tmp_path / "nowhere")


@pytest.mark.parametrize("record", ["[]", "{}", '{"number": 1, "files": {}}'])
def test_a_damaged_record_is_named(tmp_path, record):
    find(tmp_path)
    (tmp_path / "round_01.json").write_text(record)
    with pytest.raises(FormatError, match=r"round_01\.json"):
        Search.load(tmp_path)


def test_a_retraining_is_no_search(tmp_path):
    retrain(
        train, {}, initial(), total=TOTAL, step=0, folder=tmp_path, seeds=[0],
        evaluate={"test": spread}, progress=False,
    )  # fmt: skip
    with pytest.raises(FormatError, match="kind is 'retraining', expected 'search'"):
        find(tmp_path)
