"""The bar that long computations show."""

import pytest

from masktools.progress import bar


@pytest.mark.parametrize("wanted", [True, False])
def test_the_bar_counts_what_was_done_before_and_is_silent_where_not_wanted(
    wanted, monkeypatch, capsys
):
    monkeypatch.setenv("FORCE_COLOR", "1")  # A terminal, says rich.
    with bar(5, "layers", done=2, wanted=wanted) as step:
        step("conv1")
    out, err = capsys.readouterr()
    assert out == ""
    assert ("3/5" in err, "conv1" in err) == (wanted, wanted)


def test_no_bar_goes_into_a_pipe(monkeypatch, capsys):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with bar(2, "layers") as step:
        step("conv1")
    assert capsys.readouterr().err == ""
