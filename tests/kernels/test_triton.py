"""The Triton kernels through Triton's interpreter, in processes of their own: the variable must be set first."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from autodeploy.kernels import triton
from tests.kernels.device import INTERPRETED

FOLDER = Path(__file__).parent
FILES = sorted(str(path) for path in FOLDER.glob("test_triton_*.py"))
PARTS = 2
"""Processes for all of them: one would be what everything else has to wait for."""
interprets = pytest.mark.skipif(INTERPRETED or not find_spec("triton"), reason="runs the others in the interpreter")


def interpret(part: int, which: str) -> None:
    """Run a part of the files without what the folders above configure, which takes time to import."""
    scalars = "ignore:Conversion of an array with ndim:DeprecationWarning"  # the interpreter's own loop bounds
    options = ["-q", "-m", which, "-p", "no:cacheprovider", f"--confcutdir={FOLDER}", "-W", scalars]
    command = [sys.executable, "-m", "pytest", *options, *FILES[part::PARTS]]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]


@interprets
@pytest.mark.parametrize("part", range(PARTS))
def test_in_the_interpreter(part: int) -> None:
    interpret(part, "not slow")


@interprets
@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_the_rest_in_the_interpreter(part: int) -> None:
    interpret(part, "slow")


def test_table_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "why_unavailable", lambda: "triton is not installed")
    assert triton.kernels.__wrapped__() == ()
