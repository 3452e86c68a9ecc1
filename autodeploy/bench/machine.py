"""What a benchmark's result says of where it was measured."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any

import torch

from autodeploy.artifact.manifest import versions

DRIVER = Path("/proc/driver/nvidia/version")


def context(command: str) -> dict[str, Any]:
    """The command, the machine and the versions, for the JSON of a result."""
    machine: dict[str, Any] = {"cpu": cpu_name(), "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        machine |= {"gpu": torch.cuda.get_device_name(), "driver": driver_version(), "cuda": torch.version.cuda}
    return {"command": command, "machine": machine, "versions": versions()}


def driver_version() -> str | None:
    """The version of NVIDIA's driver; None where the system does not tell."""
    if not DRIVER.is_file():
        return None
    found = re.search(r"\s(\d+\.\d[\d.]*)\s", DRIVER.read_text())
    return found[1] if found else None


def cpu_name() -> str:
    """The CPU's name and its vector extensions, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    text = info.read_text()
    name = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")
    features = [one for one in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16") if f" {one} " in text]
    return f"{name} ({', '.join(features)})"
