"""The Triton kernels through Triton's interpreter, in a process of its own: the variable must be set first."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from autodeploy.kernels import triton
from tests.kernels.device import INTERPRETED

FILES = sorted(str(path) for path in Path(__file__).parent.glob("test_triton_*.py"))


@pytest.mark.skipif(INTERPRETED or not find_spec("triton"), reason="runs the others in the interpreter")
def test_in_the_interpreter() -> None:
    scalars = "ignore:Conversion of an array with ndim:DeprecationWarning"  # the interpreter's own loop bounds
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", scalars, *FILES]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_table_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "why_unavailable", lambda: "triton is not installed")
    assert triton.kernels.__wrapped__() == ()
