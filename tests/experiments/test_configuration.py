"""Configurations that cannot be run are refused by one sentence, before anything is trained."""

from __future__ import annotations

import sys

import pytest
from paths import ROOT

sys.path.append(str(ROOT))

from experiments.__main__ import main
from experiments.configuration import Arm, ConfigurationError, of, read, rehearsal
from experiments.runner import run

GOOD = {
    "title": "t",
    "question": "q",
    "picture": "density",
    "rounds": [1],
    "arms": ["imp + refill"],
}
CONFIGS = sorted((ROOT / "experiments" / "configs").glob("*.toml"))


def test_defaults_and_arms():
    found = of(GOOD)
    assert found.arms == (Arm("imp", "refill"),)
    assert (found.seeds, found.skip, str(found.arms[0])) == (3, ("stem",), "imp + refill")
    assert [found.start_step(s) for s in ("0 %", "5 %", "50 %", "100 %", "fresh")] == [
        0,
        8,
        80,
        160,
        0,
    ]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_configurations_of_the_repository_are_read(path):
    pytest.importorskip("tomllib")
    assert len(read(path).question) > 20


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rouns": [1]}, r"there is no key 'rouns'; .*rounds"),
        ({"seeds": "3"}, r"seeds must be of type int, got '3'"),
        ({"seeds": True}, r"seeds must be of type int, got True"),
        ({"seeds": 0}, r"seeds must be at least 1, got 0"),
        ({"batch": 1}, r"batch must be at least 2, got 1"),
        ({"rounds": 3}, r"rounds must be a list of int, got 3"),
        ({"rounds": [1.5]}, r"rounds must be a list of int, got \[1.5\]"),
        ({"rounds": []}, r"rounds must be different ones, at least one"),
        ({"rounds": [0]}, r"rounds must be at least 1, got 0"),
        ({"arms": ["imp", "imp"]}, r"arms must be different ones"),
        ({"arms": ["imq"]}, r"arm 'imq' has source 'imq'; .*imp"),
        ({"arms": ["imp + refil"]}, r"arm 'imp \+ refil' has post 'refil'; .*refill"),
        ({"arms": ["imp +"]}, r"arm 'imp \+' has post ''"),
        ({"network": "resnet"}, r"network 'resnet' is unknown; .*small"),
        ({"picture": "pie"}, r"picture 'pie' is unknown; .*density"),
        ({"schedule": "half"}, r"schedule 'half' is unknown; .*rest"),
        ({"rewind": 160}, r"rewind must be less than steps, 160, got 160"),
        ({"rate": 1.0}, r"rate must be above 0 and below 1, got 1.0"),
        ({"starts": ["early"]}, r"starts has 'early': a start is \"fresh\" or a share"),
        ({"starts": ["101 %"]}, r"starts has '101 %': a start is"),
        ({"starts": ["3 %"]}, r"starts has '3 %': 3 % of 160 steps is no whole step"),
        ({"starts": ["100 %"]}, r"'rest' leaves nothing to train: take 'full'"),
        ({"arms": ["snip"], "without_training": True}, r"without_training needs trained weights"),
    ],
)
def test_what_cannot_be_run_is_refused(wrong, said):
    with pytest.raises(ConfigurationError, match=said):
        of(GOOD | wrong)


def test_a_gpu_that_is_not_there_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="there is no GPU for device 'cuda'; --rehearse"):
        run(of(GOOD | {"device": "cuda"}), tmp_path)
    assert rehearsal(of(GOOD | {"device": "cuda", "data": "characters"})).device == "cpu"


@pytest.mark.parametrize("key", GOOD)
def test_what_has_no_default_must_be_there(key):
    with pytest.raises(ConfigurationError, match=f"there is no '{key}', and it has no default"):
        of({k: v for k, v in GOOD.items() if k != key})


def test_errors_name_the_file_and_end_the_command(tmp_path, capsys):
    pytest.importorskip("tomllib")
    path = tmp_path / "wrong.toml"
    path.write_text("seeds = 0\nseeds = 1\n")
    assert main([str(path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: wrong.toml: ")
    path.write_text("colour = 'grey'\n")
    assert main([str(path), "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: wrong.toml: there is no key 'colour'; ")
    assert main([str(tmp_path / "none.toml")]) == 2
    assert "none.toml: No such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
