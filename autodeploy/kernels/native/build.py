"""Compiling the C++ kernels with the system's compiler, once for each machine and version of the sources."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from autodeploy.cache import cache_dir, keep_folder
from autodeploy.errors import AutodeployError

HERE = Path(__file__).parent
TORCH = Path(torch.__file__).parent
LIBRARY_NAME = "autodeploy_native.so"
MOST = 16
"""Libraries kept, of half a megabyte each: one for each version, environment and kind of machine."""
FLAGS = ("-std=c++20", "-O3", "-march=native", "-fopenmp", "-fPIC")


class BuildError(AutodeployError):
    """The kernels cannot be compiled here."""


def build() -> Path:
    """The compiled library, compiled now unless the cache has it. Raises BuildError, and OSError for the cache."""
    compiler = find_compiler()
    folder = cache_dir() / "native" / _key(compiler)
    return keep_folder(folder, lambda partial: _compile(compiler, partial), MOST) / LIBRARY_NAME


def find_compiler() -> str:
    """The path of the C++ compiler: `$CXX`, or the first found of c++, g++ and clang++. Raises BuildError."""
    chosen = os.environ.get("CXX")
    for name in (chosen,) if chosen else ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return path
    named = f"$CXX is {chosen!r}, which was not found" if chosen else "none of c++, g++ and clang++ was found"
    raise BuildError(f"no C++ compiler: {named}")


def _key(compiler: str) -> str:
    """Changes with whatever the library depends on: sources, compiler, flags, torch, and the CPU's features."""
    parts = [_run([compiler, "--version"]), " ".join(_flags()), torch.__version__, _cpu_features()]
    parts += [path.read_text() for path in sorted(HERE.glob("*.h")) + _sources()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _sources() -> list[Path]:
    return sorted(HERE.glob("*.cpp"))


def _flags() -> list[str]:
    return [*FLAGS, f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}", "-isystem", f"{TORCH}/include"]


def _cpu_features() -> str:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return f"{platform.machine()} {platform.processor()}"
    lines = info.read_text().splitlines()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _compile(compiler: str, folder: Path) -> None:
    def compile_one(source: Path) -> str:
        target = str(folder / f"{source.stem}.o")
        _run([compiler, *_flags(), "-c", str(source), "-o", target])
        return target

    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compile_one, _sources()))
    libraries = ["-ltorch_cpu", "-lc10", "-lgomp"]  # torch has loaded its own libgomp; by its name, this finds that one
    search = [f"-L{TORCH}/lib", f"-Wl,-rpath,{TORCH}/lib"]
    _run([compiler, "-shared", *objects, "-o", str(folder / LIBRARY_NAME), *search, *libraries])
    for path in objects:
        Path(path).unlink()


def _run(command: Sequence[str]) -> str:
    """The output of a compiler run; its first error line becomes the BuildError's message."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.splitlines() or ["it said nothing"]
        first = next((line for line in lines if "error" in line), lines[0])
        raise BuildError(f"the C++ compiler {command[0]} failed: {first.strip()}")
    return done.stdout
