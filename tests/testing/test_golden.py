"""Golden files, and the pytest plugin that every author gets with the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import autodeploy.testing
from autodeploy.testing import assert_golden

TEST = """
from pathlib import Path

def test_text(golden):
    golden({text!r}, Path("kept/graph.txt"))
"""


def test_equal_texts_pass_and_others_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "kept" / "graph.txt"
    with pytest.raises(AssertionError, match=r"no golden file .*; run pytest with --update-golden"):
        assert_golden("one\ntwo\n", path)
    assert_golden("one\ntwo\n", path, update=True)
    assert_golden("one\ntwo\n", path)
    with pytest.raises(AssertionError, match=r"(?s)-two\n\+three\n"):
        assert_golden("one\nthree\n", path)
    assert path.read_text() == "one\ntwo\n"


def run(folder: Path, text: str, *options: str) -> str:
    """The output of pytest, with the installed plugins and no configuration of ours."""
    (folder / "test_one.py").write_text(TEST.format(text=text))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


def test_a_package_that_only_installs_us_can_update_its_files(tmp_path: Path) -> None:
    assert "there is no golden file" in run(tmp_path, "one\n")
    assert "1 passed" in run(tmp_path, "one\n", "--update-golden")
    assert (tmp_path / "kept" / "graph.txt").read_text() == "one\n"
    assert "1 passed" in run(tmp_path, "one\n")
    assert "-one" in run(tmp_path, "two\n")


@pytest.mark.slow
def test_the_kit_needs_neither_pytest_nor_torch_until_it_is_used() -> None:
    script = "import sys, autodeploy.testing; assert not {'pytest', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
    script = f"import sys; from autodeploy.testing import {', '.join(autodeploy.testing.__all__)}\n"
    subprocess.run([sys.executable, "-c", f"{script}assert 'pytest' not in sys.modules"], check=True)


def test_the_public_names() -> None:
    assert dir(autodeploy.testing) == sorted(autodeploy.testing.__all__)
    with pytest.raises(AttributeError, match="no attribute 'check_patern'"):
        autodeploy.testing.__getattr__("check_patern")
