"""`autodeploy doctor`: what this machine has, what is missing, and what that costs."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Literal

from rich.text import Text

from autodeploy.cli import options as opt
from autodeploy.cli import output
from autodeploy.errors import PluginError

PACKAGES = ("fx-autodeploy", "torch", "transformers", "safetensors", "huggingface-hub")
EXTRAS = (
    ("serve", ("fastapi", "uvicorn", "prometheus_client"), "autodeploy serve"),
    ("gpu", ("triton",), "the Triton kernels on an NVIDIA GPU"),
)
MARKS = {"ok": ("✓ ", "green"), "missing": ("• ", "yellow"), "broken": ("✗ ", "red")}


@dataclass(frozen=True)
class Finding:
    """One thing looked at, and what its absence costs."""

    what: str
    state: Literal["ok", "missing", "broken"]
    found: str
    cost: str = ""


def doctor(as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """Look at the environment: versions, devices, the compiler, caches, extras, plugins."""
    findings = list(examine())
    if as_json:
        output.print_json({"findings": [asdict(one) for one in findings]})
        return
    console = output.out()
    for one in findings:
        detail = one.found + (f": {one.cost}" if one.cost else "")
        console.print(Text.assemble(MARKS[one.state], (one.what, "bold"), f" {detail}"), soft_wrap=True)


def examine() -> Iterator[Finding]:
    """Look at everything, the quick things first."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        yield _package(package)
    yield _compiler()
    yield from _caches()
    for extra, modules, purpose in EXTRAS:
        yield _extra(extra, modules, purpose)
    yield _cpu()
    yield _gpu()
    yield from _plugins()


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", version(name))
    except PackageNotFoundError:
        return Finding(name, "broken", "not installed", f"nothing runs without it: pip install {name}")


def _compiler() -> Finding:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler:
        return Finding("C++ compiler", "ok", compiler)
    return Finding("C++ compiler", "missing", "none found", "programs for the CPU run uncompiled, so slower")


def _caches() -> Iterator[Finding]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from autodeploy.cache import cache_dir

    for what, folder in (("cache", str(cache_dir())), ("Hub cache", HF_HUB_CACHE)):
        parent = folder
        while not os.path.exists(parent):
            parent = os.path.dirname(parent)
        free = shutil.disk_usage(parent).free / 1e9
        if os.access(parent, os.W_OK):
            yield Finding(what, "ok", f"{folder}, {free:.0f} GB free")
        else:
            yield Finding(what, "broken", f"{folder} can't be written", "models can't be kept: set AUTODEPLOY_CACHE")


def _extra(extra: str, modules: tuple[str, ...], purpose: str) -> Finding:
    absent = [module for module in modules if find_spec(module) is None]
    if not absent:
        return Finding(f"extra [{extra}]", "ok", ", ".join(modules))
    cost = f"no {purpose}: pip install 'fx-autodeploy[{extra}]'"
    return Finding(f"extra [{extra}]", "missing", f"{', '.join(absent)} not installed", cost)


def _cpu() -> Finding:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    threads = torch.get_num_threads()
    found = f"{capability}, {threads} threads, bf16 {'in hardware' if bf16 else 'emulated'}"
    return Finding("CPU", "ok", found, "" if bf16 else "programs for it default to fp32")


def _gpu() -> Finding:
    from autodeploy.hardware import choose_gpu, find_device

    device = find_device()
    if device is None:
        return Finding(
            "GPU", "missing", "no CUDA device", "programs for a GPU can be built here, and tuned at its side"
        )
    choice = choose_gpu("auto")
    return Finding("GPU", "ok", f"{device.name}, {device.memory_gb:.0f} GB, planned as {choice.gpu.name}")


def _plugins() -> Iterator[Finding]:
    from autodeploy.discovery import discover

    try:
        registry = discover()
    except PluginError as error:
        yield Finding("plugins", "broken", str(error), "no model can be built until then")
        return
    yield Finding("plugins", "ok", ", ".join(f"{one.plugin} ({one})" for one in registry.providers()))
    for problem in registry.problems:
        yield Finding("plugin", "broken", str(problem))
