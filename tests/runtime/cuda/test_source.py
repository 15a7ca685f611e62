"""The text of the kernels."""

from __future__ import annotations

import shutil

import pytest
from paths import ROOT

from runtime.cuda import kernel_source
from runtime.cuda.candidates import candidates
from runtime.cuda.configuration import Limits, Problem
from runtime.errors import BackendUnavailable

LIMITS = Limits(90, 132, 232448, 233472)
SOME = candidates(Problem("float32", 4096, 64, ((64, 400),)), LIMITS)


def test_every_file_expands_to_one_text():
    files = sorted(path.name for path in kernel_source.folder().glob("*.cu*"))
    assert "convolution.cuh" in files
    for name in files:
        text = kernel_source.expand(name)
        assert "#include" not in text
        assert "#pragma once" not in text


def test_a_file_included_twice_stands_once():
    assert kernel_source.expand("convolution.cuh").count("struct Geometry {") == 1


def test_a_file_may_be_replaced():
    text = kernel_source.expand("convolution.cuh", {"device.cuh": "// another\n"})
    assert text.count("// another\n") == 1
    assert "asm" not in text


def test_inline_assembly_stands_in_one_file():
    holding = [
        path.name for path in kernel_source.folder().iterdir() if "asm" in path.read_text("utf-8")
    ]
    assert holding == ["device.cuh"]


def test_kernels_are_sorted_and_stand_once():
    text = kernel_source.render(SOME)
    assert text == kernel_source.render([*reversed(SOME), *SOME])
    for configuration in SOME:
        assert text.count(f" {configuration.name}(") == 1


def test_a_split_changes_tables_and_not_the_kernel():
    names = {configuration.name for configuration in SOME}
    assert len(names) < len(SOME)


def test_a_digest_depends_on_all_of_its_parts():
    parts = ("source", ("-a", "-b"), "NVRTC 13")
    others = [
        ("source ", ("-a", "-b"), "NVRTC 13"),
        ("source", ("-a",), "NVRTC 13"),
        ("source", ("-a-b",), "NVRTC 13"),
        ("source", ("-a", "-b"), "NVRTC 12"),
    ]
    assert len({kernel_source.digest(*p) for p in [parts, *others]}) == 5
    assert kernel_source.digest(*parts) == kernel_source.digest(*parts)


def test_kernels_are_found_inside_the_package_first(tmp_path, monkeypatch):
    installed = tmp_path / "site-packages" / "runtime" / "cuda" / "kernel_source.py"
    shutil.copytree(kernel_source.folder(), installed.parent / "kernels")
    monkeypatch.setattr(kernel_source, "__file__", str(installed))
    assert kernel_source.folder() == installed.parent / "kernels"
    assert "struct Geometry" in kernel_source.expand("convolution.cuh")


def test_missing_kernels_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(
        kernel_source, "__file__", str(tmp_path / "runtime" / "cuda" / "kernel_source.py")
    )
    with pytest.raises(BackendUnavailable, match=r"source is missing.*install masktools anew"):
        kernel_source.folder()


def test_a_checkout_holds_them_beside_the_package():
    assert kernel_source.folder() == ROOT / "cuda"
