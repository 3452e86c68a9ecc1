"""Kernels are compiled by other processes, once, and nobody compiles them again."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("triton"), reason="compiles Triton's kernels")
def test_kernels_are_compiled_ahead(tmp_path: Path) -> None:
    given = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.kernels.compiled_ahead"]
    done = subprocess.run(
        command, env={**given, "TRITON_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.stdout == "ok\n", done.stderr[-4000:]
