"""Build the native extensions; everything else about the package stands in pyproject.toml."""

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

setup(
    ext_modules=[
        Pybind11Extension(
            "masktools._search",
            ["masktools/_search.cpp"],
            cxx_std=17,
            # A missing compiler must not keep anyone from the rest of the toolkit:
            # masktools.partition says what is lost and how to get it.
            optional=True,
        )
    ]
)
