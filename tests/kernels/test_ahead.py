"""Kernels are compiled by other processes, once, and nobody compiles them again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

DRIVER = (
    "cuCtxGetCurrent cuCtxGetLimit cuCtxSetCurrent cuCtxSetLimit cuDeviceGet cuDeviceGetAttribute cuInit"
    " cuDevicePrimaryCtxRetain cuFuncGetAttribute cuFuncSetAttribute cuFuncSetCacheConfig cuGetErrorString"
    " cuLaunchKernelEx cuModuleGetFunction cuModuleLoadData cuOccupancyMaxActiveClusters cuPointerGetAttribute"
    " cuTensorMapEncodeTiled"
)
"""What Triton's launchers ask of the driver's library."""


def make_driver(folder: Path) -> None:
    """A library that links as NVIDIA's driver does, and can do nothing."""
    source = folder / "driver.c"
    source.write_text("".join(f"int {name}(void) {{ return 1; }}\n" for name in DRIVER.split()))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", source], check=True)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("triton") or not shutil.which("gcc"), reason="compiles Triton's kernels")
def test_kernels_and_what_launches_them_are_compiled_ahead(tmp_path: Path) -> None:
    make_driver(tmp_path)
    given = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    own = dict.fromkeys(("TRITON_LIBCUDA_PATH", "LD_LIBRARY_PATH"), str(tmp_path))
    own["TRITON_CACHE_DIR"] = str(tmp_path / "cache")
    command = [sys.executable, "-m", "tests.kernels.compiled_ahead"]
    done = subprocess.run(command, env={**given, **own}, capture_output=True, text=True, check=False)
    assert done.stdout == "ok\n", done.stderr[-4000:]
