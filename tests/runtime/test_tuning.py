"""Choosing by timing, and what a remembered choice has to be before it is believed."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime.errors import KernelError
from runtime.tuning import HOPELESS, LARGEST_FILE, ROUNDS, Cache, cache_folder, tune

KEY = {"device": "a", "compiler": [13, 0], "source": "5eed", "problem": {"rows": 64, "k": 576}}
CANDIDATES = {"first": 1.0, "second": 0.5, "third": 0.9}


class Clock:
    """Candidates that take a given time, and a count of how often each was run."""

    def __init__(self, broken=()):
        self.broken, self.runs = broken, []

    def __call__(self, seconds):
        if seconds in self.broken:
            raise KernelError(f"too much shared memory for {seconds}")
        self.runs.append(seconds)
        return seconds


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "deep" / "cache")


def test_the_fastest_is_chosen_and_remembered(cache):
    clock = Clock()
    tuned = tune(KEY, CANDIDATES, clock, cache)
    assert (tuned.choice, tuned.seconds, tuned.remembered) == (0.5, 0.5, False)
    again = tune(KEY, CANDIDATES, Clock(broken=CANDIDATES.values()), cache)
    assert (again.choice, again.seconds, again.remembered) == (0.5, 0.5, True)


def test_what_is_far_behind_is_timed_once(cache):
    clock = Clock()
    tune(KEY, {"slow": HOPELESS * 1.01, "near": HOPELESS * 0.99, "best": 1.0}, clock, cache)
    assert clock.runs.count(HOPELESS * 1.01) == 1
    assert clock.runs.count(HOPELESS * 0.99) == clock.runs.count(1.0) == ROUNDS


def test_of_equals_the_earlier_is_chosen(cache):
    a, b = 1.0, float("1")
    assert tune(KEY, {"a": (a, "a"), "b": (b, "b")}, lambda c: c[0], cache).choice[1] == "a"


def test_one_slow_run_does_not_decide(cache):
    times = {"steady": iter([1.2] * ROUNDS), "jumpy": iter([1.0, 9.0, 1.0, 1.0, 1.0])}
    assert tune(KEY, {n: n for n in times}, lambda n: next(times[n]), cache).choice == "jumpy"


def test_a_candidate_that_cannot_run_is_passed_over_and_named(cache):
    with pytest.warns(RuntimeWarning, match="1 configurations cannot be run; the first, second"):
        assert tune(KEY, CANDIDATES, Clock(broken=(0.5,)), cache).choice == 0.9


def test_where_none_runs_the_first_error_is_raised(cache):
    with pytest.raises(KernelError, match=r"3 .* the first, first: too much shared memory"):
        tune(KEY, CANDIDATES, Clock(broken=CANDIDATES.values()), cache)
    assert not cache.path(KEY).exists()
    with pytest.raises(KernelError, match="no configuration"):
        tune(KEY, {}, Clock(), cache)


@pytest.mark.parametrize("part", list(KEY))
def test_each_part_of_the_key_makes_a_choice_of_its_own(cache, part):
    tune(KEY, CANDIDATES, Clock(), cache)
    clock = Clock()
    assert not tune({**KEY, part: "another"}, CANDIDATES, clock, cache).remembered
    assert clock.runs


def entry(**changes):
    kept = {"key": {"format": 1, **KEY}, "choice": "third", "seconds": 0.9}
    return json.dumps({**kept, **changes})


DAMAGED = {
    "empty": "",
    "cut": entry()[:-5],
    "no object": "[1, 2]",
    "null": "null",
    "binary": "\udc80\udcff",
    "deep": "[" * 50_000,
    "no choice": json.dumps({"key": {"format": 1, **KEY}, "seconds": 1.0}),
    "long": entry() + " " * LARGEST_FILE,
}
FOREIGN = {
    "another device": entry(key={"format": 1, **KEY, "device": "b"}),
    "another format": entry(key={"format": 2, **KEY}),
    "a key of NaN": entry(key={"format": 1, **KEY, "problem": float("nan")}),
    "no candidate": entry(choice="fourth"),
    "a list": entry(choice=["third"]),
    "no time": entry(seconds=None),
    "never": entry(seconds=float("inf")),
    "before": entry(seconds=-1.0),
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_entry_is_ignored_with_a_warning_and_replaced(cache, text):
    cache.folder.mkdir(parents=True)
    cache.path(KEY).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.warns(RuntimeWarning, match=r"ignored: (damaged|longer)"):
        assert tune(KEY, CANDIDATES, Clock(), cache).choice == 0.5
    assert cache.read(KEY, CANDIDATES).choice == 0.5


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_entry_is_ignored_with_a_warning_and_replaced(cache, text):
    cache.folder.mkdir(parents=True)
    cache.path(KEY).write_text(text)
    with pytest.warns(RuntimeWarning, match=r"ignored: (written for|.* is no)"):
        assert tune(KEY, CANDIDATES, Clock(), cache).choice == 0.5
    assert cache.read(KEY, CANDIDATES).choice == 0.5


def test_an_entry_that_fits_is_believed(cache):
    cache.folder.mkdir(parents=True)
    cache.path(KEY).write_text(entry())
    assert tune(KEY, CANDIDATES, Clock(), cache).choice == 0.9


def test_a_folder_that_cannot_be_written_costs_the_memory_alone(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = Cache(tmp_path / "file")
    with pytest.warns(RuntimeWarning) as seen:
        assert tune(KEY, CANDIDATES, Clock(), cache).choice == 0.5
    assert any("not remembered" in str(w.message) for w in seen)


def test_a_write_that_fails_leaves_the_old_entry_whole(cache, monkeypatch):
    cache.write(KEY, "third", 0.9)
    monkeypatch.setattr("pathlib.Path.replace", _full_disk)
    with pytest.warns(RuntimeWarning, match="not remembered"):
        cache.write(KEY, "first", 1.0)
    assert cache.read(KEY, CANDIDATES).choice == 0.9


def _full_disk(self, target):
    raise OSError(28, "No space left on device", str(self))


def test_threads_and_readers_see_whole_entries(cache):
    def work(number):
        cache.write(KEY, "first" if number % 2 else "third", 0.9)
        return cache.read(KEY, CANDIDATES).choice

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(64))) <= {1.0, 0.9}
    assert [path.name for path in cache.folder.iterdir()] == [cache.path(KEY).name]


def test_the_folder_can_be_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("MASKTOOLS_CACHE", raising=False)
    assert cache_folder() == tmp_path / "masktools"
    monkeypatch.setenv("MASKTOOLS_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
