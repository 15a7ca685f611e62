"""The result folder: what it holds, what it replaces, what it refuses."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from masktools import BlockLayout, Calibration, DenseBlock, convert
from masktools.calibration.report import CalibrationReport, LayerCalibration
from masktools.conversion.result import Conversion, is_result, load_layouts
from masktools.conversion.resume import FOLDER
from masktools.errors import FormatError
from masktools.importers.containers.detect import VALUES


def converted(density=None):
    """Return a result of three layers, one of them left dense."""
    rng = np.random.default_rng(0)
    masks = {name: rng.random((12, 6)) < 0.5 for name in ("wide", "conv1", "fc")}
    return convert(masks, method="refill", density=density)


def test_a_saved_result_comes_back(tmp_path):
    result = converted()
    result.save(tmp_path / "new" / "result")
    again = Conversion.load(tmp_path / "new" / "result")
    assert again.report == result.report
    assert again.layouts == result.layouts
    assert list(again.layouts) == list(result.layouts)
    assert all(np.array_equal(again.masks[name], mask) for name, mask in result.masks.items())
    assert load_layouts(tmp_path / "new" / "result") == result.layouts
    assert load_layouts(tmp_path / "new" / "result" / "layouts.safetensors") == result.layouts


def test_a_result_shows_itself_in_a_line():
    masks = {"conv": np.eye(4), "fc": np.ones((2, 4))}
    assert repr(convert(masks, method="refill", density=0.5)) == (
        "Conversion(Report(1 of 2 layers converted, density 0.500 -> 0.667, retained 0.833))"
    )


def test_a_result_replaces_a_result_and_nothing_else(tmp_path):
    first = converted()
    second = converted(0.2)
    first.save(tmp_path / "result")
    (tmp_path / "result" / "diary.txt").write_text("kept")
    second.save(tmp_path / "result")
    assert Conversion.load(tmp_path / "result").report == second.report
    assert sorted(p.name for p in (tmp_path / "result").iterdir()) == [
        "diary.txt",
        "layouts.safetensors",
        "masks.safetensors",
        "report.json",
    ]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "masks.safetensors").write_text("mine")
    for place in (tmp_path / "other", tmp_path / "other" / "masks.safetensors"):
        with pytest.raises(FormatError, match=r"not a result of masktools|is a file"):
            first.save(place)
        with pytest.raises(FormatError, match=r"not a result of masktools|is a file"):
            convert({"a": np.eye(4)}, method="regroup", include=["a"], resume=place)
    assert (tmp_path / "other" / "masks.safetensors").read_text() == "mine"


def test_a_failing_save_leaves_the_earlier_result(tmp_path, monkeypatch):
    first = converted()
    first.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("masktools.conversion.result._render_report", full)
    with pytest.raises(OSError, match="No space"):
        converted(0.1).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_result_that_was_tampered_with_is_refused(tmp_path):
    converted().save(tmp_path / "a")
    converted(0.1).save(tmp_path / "b")
    layouts = (tmp_path / "b" / "layouts.safetensors").read_bytes()
    (tmp_path / "a" / "layouts.safetensors").write_bytes(layouts)
    with pytest.raises(FormatError, match=r"layouts.safetensors is not the file"):
        Conversion.load(tmp_path / "a")
    (tmp_path / "a" / "layouts.safetensors").unlink()
    with pytest.raises(FormatError, match="No such file"):
        Conversion.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda data: data.update(format="other"), "not a report of masktools"),
        (lambda data: data.update(version=2), "version 2, but 1 is read"),
        (lambda data: data.pop("files"), "is not the file that"),
        (lambda data: data.update(files=3), "is not the file that"),
        (lambda data: data.pop("total"), "KeyError"),
        (lambda data: data["layers"][1].update(kept="many"), "kept is 'many'"),
        (lambda data: data["layers"][1].update(layer="else"), "differ about layer 'conv1'"),
        (lambda data: data["layers"].append(3), "not one of masktools"),
        (lambda data: data.update(excluded=3), "not one of masktools"),
        (lambda data: data.update(cost={"dense": {"inside": 1, "padded": 1}}), "KeyError"),
        (
            lambda data: data.update(
                cost={case: {"inside": 1, "padded": 1.5} for case in ("dense", "before", "after")}
            ),
            "a count of multiplications is 1.5",
        ),
    ],
)
def test_a_report_that_is_not_one_is_refused(tmp_path, change, match):
    converted().save(tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    change(data)
    (tmp_path / "report.json").write_text(json.dumps(data))
    with pytest.raises(FormatError, match=match):
        Conversion.load(tmp_path)


def test_a_folder_with_finished_layers_alone_may_become_a_result(tmp_path):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / ("0" * 64 + ".safetensors")).write_bytes(b"of an earlier run")
    (tmp_path / FOLDER / (".12.0." + "1" * 64 + ".safetensors")).write_bytes(b"half of one")
    (tmp_path / FOLDER / "notes.txt").write_text("kept")
    assert is_result(tmp_path)
    converted().save(tmp_path)
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["notes.txt"]
    assert is_result(tmp_path)
    assert not is_result(tmp_path / FOLDER)


def test_what_a_killed_process_left_of_a_result_is_no_hindrance(tmp_path):
    for name in (".12.0.report.json", ".12.1.layouts.safetensors", ".12.2.masks.safetensors"):
        (tmp_path / name).write_bytes(b"half of it")
    assert not is_result(tmp_path)
    converted().save(tmp_path)
    assert is_result(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / ".12.0.notes.txt").write_text("of somebody else")
    with pytest.raises(FormatError, match="not a result of masktools"):
        converted().save(other)


def test_a_report_that_nests_without_end_is_refused(tmp_path):
    (tmp_path / "report.json").write_text("[" * 100_000)
    with pytest.raises(FormatError, match=r"report\.json"):
        Conversion.load(tmp_path)


def test_layouts_that_are_none_are_refused(tmp_path):
    from safetensors.numpy import save_file

    layout = BlockLayout.from_mask(np.eye(3)).to_arrays()
    file = tmp_path / "layouts.safetensors"
    head = {"format": "masktools-layouts", "version": 1, "groups": {"a": 1}}
    for header, arrays, match in (
        (None, layout, "it holds no layouts"),
        ({**head, "version": 9}, layout, "version 9"),
        ({**head, "groups": ["a"]}, layout, "names no convolution groups"),
        (head, {"b.shape": layout["shape"]}, "'b.shape' belongs to no layer"),
        (head, {"a.shape": layout["shape"]}, "layer 'a': array 'row_indices' is missing"),
        ("[" * 100_000, layout, r"layouts\.safetensors"),
    ):
        text = header if isinstance(header, str) else json.dumps(header)
        metadata = None if header is None else {"masktools": text}
        save_file(arrays, file, metadata)
        with pytest.raises(FormatError, match=match):
            load_layouts(file)
    file.write_bytes(b"nothing")
    with pytest.raises(FormatError, match=r"layouts\.safetensors"):
        load_layouts(file)
    with pytest.raises(FormatError, match="no such file"):
        load_layouts(tmp_path / "none")


def calibrated():
    values = {"conv1.weight": np.ones((12, 6), np.float32), "conv1.bias": np.zeros(12, np.float32)}
    row = LayerCalibration("conv1", 3, 0, 100, 0.01, 12.5, 0.5, None)
    report = CalibrationReport(
        "refit", 56, 8, 0.5, 0.25, 0.75, 1.0, None, None, None, (row,), ("a note",)
    )
    return converted().calibrated(Calibration(values, report))


def test_a_calibration_is_saved_and_comes_back(tmp_path):
    result = calibrated()
    result.save(tmp_path)
    again = Conversion.load(tmp_path)
    assert again.calibration.report == result.calibration.report
    assert again.values.keys() == result.values.keys()
    for name, array in result.values.items():
        assert again.values[name].dtype == np.float32
        np.testing.assert_array_equal(again.values[name], array)
    first = (tmp_path / VALUES).read_bytes()
    result.save(tmp_path)
    assert (tmp_path / VALUES).read_bytes() == first
    converted().save(tmp_path)  # A result without one leaves none behind.
    assert Conversion.load(tmp_path).calibration is None
    assert not (tmp_path / VALUES).exists()


def test_columns_that_were_chosen_anew_are_saved_and_come_back(tmp_path):
    rng = np.random.default_rng(0)
    before = convert(
        {n: rng.random((16, 12)) < 0.5 for n in ("a", "b")}, method="regroup", include=["a"]
    )
    (name, old), *_ = before.layouts.items()
    moved = [DenseBlock(b.rows, np.sort((b.columns + 1) % old.columns)) for b in old.blocks]
    layout = BlockLayout(old.shape, moved, old.groups)
    row = LayerCalibration(name, 3, 2, 100, 0.01, 12.5, 0.5, None)
    report = replace(calibrated().calibration.report, layers=(row,))
    result = before.calibrated(Calibration({}, report, {name: layout}))
    np.testing.assert_array_equal(result.masks[name], layout.to_mask())
    result.save(tmp_path)
    again = Conversion.load(tmp_path)
    assert again.calibration.layouts.keys() == {name}
    for found in (again.layouts[name], again.calibration.layouts[name]):
        np.testing.assert_array_equal(found.to_mask(), layout.to_mask())
    assert (layout.to_mask() != old.to_mask()).any()


def test_values_that_do_not_belong_to_the_result_are_refused(tmp_path):
    calibrated().save(tmp_path)
    other = calibrated()
    other.values["conv1.bias"][0] = 1
    other.save(tmp_path / "other")
    (tmp_path / VALUES).write_bytes((tmp_path / "other" / VALUES).read_bytes())
    with pytest.raises(FormatError, match=r"values.safetensors is not the file that report.json"):
        Conversion.load(tmp_path)
    (tmp_path / VALUES).unlink()
    with pytest.raises(FormatError, match=r"values.safetensors: No such file"):
        Conversion.load(tmp_path)


@pytest.mark.parametrize("damage", ["nan", "format", "report"])
def test_a_damaged_calibration_is_refused(tmp_path, damage):
    calibrated().save(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    arrays = {"conv1.bias": np.full(12, np.nan if damage == "nan" else 0, np.float32)}
    head = {"format": "x" if damage == "format" else "masktools-values", "version": 1}
    save_file(arrays, tmp_path / VALUES, {"masktools": json.dumps(head)})
    report["files"][VALUES] = hashlib.sha256((tmp_path / VALUES).read_bytes()).hexdigest()
    if damage == "report":
        report["calibration"]["layers"][0]["columns"] = "many"
    (tmp_path / "report.json").write_text(json.dumps(report))
    told = {"nan": "finite", "format": "no calibrated values", "report": "columns is 'many'"}
    with pytest.raises(FormatError, match=told[damage]):
        Conversion.load(tmp_path)
