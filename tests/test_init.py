"""The public names of the package."""

import subprocess
import sys

import pytest

import etl


def test_the_public_names_are_there_sorted_and_complete():
    assert sorted(etl.__all__) == etl.__all__
    for name in etl.__all__:
        assert getattr(etl, name).__name__ == name
        assert getattr(etl, name).__doc__
    assert set(etl.__all__) <= set(dir(etl))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = etl.nonsense


def test_importing_the_package_costs_nothing():
    script = "import sys, etl; print(sorted({'pandas', 'pyarrow', 'duckdb', 'httpx', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"
