"""Compiling CUDA C++ by NVRTC, once for each variant, GPU and version of the sources."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autodeploy.cache import cache_dir, keep_folder
from autodeploy.errors import AutodeployError

SOURCES = Path(__file__).parent / "source"
BINARY = "kernel.cubin"
OPTIONS = ("--std=c++17",)
MOST = 2048
"""Binaries kept, of some 50 kB: one version of the sources tries a few hundred."""


class CompileError(AutodeployError):
    """A kernel cannot be compiled here."""


@dataclass(frozen=True)
class Variant:
    """A kernel `entry` of the file `source`, with numbers that are known when it is compiled, as macros."""

    source: str
    entry: str
    numbers: tuple[tuple[str, int], ...] = ()

    @property
    def options(self) -> tuple[str, ...]:
        """What the compiler is told of it."""
        return (*OPTIONS, *(f"--define-macro={name}={value}" for name, value in self.numbers))

    @property
    def text(self) -> str:
        """The source."""
        return (SOURCES / self.source).read_text(encoding="utf-8")


def binary(variant: Variant, capability: tuple[int, int]) -> bytes:
    """The machine code for GPUs of a compute capability, from the cache or compiled now.

    Raises CompileError, and OSError for the cache.
    """
    folder = cache_dir() / "cuda" / _key(variant, capability)

    def fill(partial: Path) -> None:
        (partial / BINARY).write_bytes(compiled(variant, capability)[0])

    return (keep_folder(folder, fill, MOST) / BINARY).read_bytes()


def _key(variant: Variant, capability: tuple[int, int]) -> str:
    from cuda.bindings import nvrtc

    text = (*_headers().values(), variant.text)
    parts = [*map(str, nvrtc.nvrtcVersion()[1:]), str(capability), variant.entry, *variant.options, *text]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _headers() -> dict[str, str]:
    """What sources may include, by name."""
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(SOURCES.glob("*.cuh"))}


def compiled(variant: Variant, capability: tuple[int, int]) -> tuple[bytes, str]:
    """The machine code, and what the compiler says of registers and memory; CompileError with what it finds wrong."""
    from cuda.bindings import nvrtc

    headers = {name.encode(): text.encode() for name, text in _headers().items()}
    named = (len(headers), list(headers.values()), list(headers))
    program = _checked(nvrtc.nvrtcCreateProgram(variant.text.encode(), variant.source.encode(), *named))
    architecture = f"--gpu-architecture=sm_{capability[0]}{capability[1]}a"
    options = [option.encode() for option in (architecture, "--ptxas-options=-v", *variant.options)]
    (outcome,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    log = bytearray(_checked(nvrtc.nvrtcGetProgramLogSize(program)))
    _checked(nvrtc.nvrtcGetProgramLog(program, log))
    said = log.rstrip(b"\0").decode(errors="replace")
    if outcome != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise CompileError(f"{variant.source} cannot be compiled for {architecture[-6:]}:\n{said}")
    code = bytearray(_checked(nvrtc.nvrtcGetCUBINSize(program)))
    _checked(nvrtc.nvrtcGetCUBIN(program, code))
    _checked(nvrtc.nvrtcDestroyProgram(program))
    return bytes(code), said


def _checked(results: tuple[Any, ...]) -> Any:
    """What a call of NVRTC gives besides its outcome; CompileError where that is a failure."""
    outcome, *values = results
    if outcome.value:
        raise CompileError(f"NVRTC failed: {outcome.name}")
    return values[0] if values else None
