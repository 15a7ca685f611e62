"""Build the native extensions; everything else about the package stands in pyproject.toml."""

import sys

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

# Products must not be contracted into sums: the search gives the same groups on every machine.
FLAGS = (
    ["/O2", "/fp:precise"]
    if sys.platform == "win32"
    else ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
)

setup(
    ext_modules=[
        Pybind11Extension(
            "masktools._search",
            ["masktools/_search.cpp"],
            depends=["masktools/_groups.h"],
            cxx_std=17,
            extra_compile_args=FLAGS,
            # A missing compiler must not keep anyone from the rest of the toolkit:
            # masktools.search says what is lost and how to get it.
            optional=True,
        )
    ]
)
