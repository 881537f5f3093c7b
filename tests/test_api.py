"""The public interface of the package."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import jfedsl


@pytest.mark.parametrize("name", jfedsl.__all__)
def test_public_names_are_there_and_documented(name: str) -> None:
    value = getattr(jfedsl, name)
    assert name in dir(jfedsl)
    if isinstance(value, dict):
        assert value, "a table with entries"
    else:
        assert inspect.getdoc(value) and len(str(inspect.getdoc(value))) > 20


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, jfedsl; print(len({'jax', 'numpy', 'flax'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_other_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = jfedsl.nothing


def test_the_citation_names_this_version() -> None:
    text = (Path(__file__).parents[1] / "CITATION.cff").read_text()
    assert f"\nversion: {jfedsl.__version__}\n" in text
