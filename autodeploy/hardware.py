"""What each GPU can do: the files in `recipes/gpus/`, and how a device finds its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

import autodeploy.recipes
from autodeploy.errors import RecipeError, nearest
from autodeploy.validation import validated
from autodeploy.yamlfile import read_yaml

Precision = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "fp4", "int8", "int4"]
Rates = dict[Precision, float]
PRECISIONS: Mapping[str, Precision] = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "fp8",
    "int8": "int8",
}
"""What the arithmetic on a dtype of torch is called in the files of GPUs."""

# The first compute capability whose tensor cores (or, for bf16, arithmetic) have the feature.
FEATURES = {
    "fp16": (7, 0),
    "int8": (7, 5),
    "bf16": (8, 0),
    "tf32": (8, 0),
    "async_copy": (8, 0),
    "fp8": (8, 9),
    "tensor_memory_accelerator": (9, 0),
    "fp4": (10, 0),
}


class Measured(BaseModel):
    """What one such device did, next to what its datasheet says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    read_gb_s: float = Field(gt=0)
    tflops: Rates
    source: str


class Gpu(BaseModel):
    """A device a program can be built for. Rates are per second, dense, of one device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    aliases: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    compute_capability: tuple[int, int] | None = None
    memory_gb: float = Field(gt=0)
    bandwidth_gb_s: float = Field(gt=0)
    tflops: Rates
    links_gb_s: dict[str, float] = {}
    measured: Measured | None = None
    source: str

    @property
    def is_cpu(self) -> bool:
        """Whether programs for it run on the host."""
        return self.compute_capability is None

    @property
    def features(self) -> tuple[str, ...]:
        """What its compute capability brings; none for the CPU, whose features are found at run time."""
        capability = self.compute_capability
        return () if capability is None else tuple(name for name, since in FEATURES.items() if capability >= since)


@dataclass(frozen=True)
class GpuChoice:
    """The device a build is for, and the sentence that says why."""

    gpu: Gpu
    reason: str


@dataclass(frozen=True)
class Device:
    """A CUDA device as its driver describes it."""

    name: str
    compute_capability: tuple[int, int]
    memory_gb: float
    bandwidth_gb_s: float | None = None
    """From the clock and the width of its memory, where the driver tells them."""


def recipe_folder() -> Path:
    """The folder of the data files that are part of this package."""
    return Path(autodeploy.recipes.__path__[0])


def read_gpu(path: Path) -> Gpu:
    """Read one GPU file."""
    file = read_yaml(path)
    return validated(Gpu, file.data, file.where)


@cache
def list_gpus() -> tuple[Gpu, ...]:
    """Every GPU that a file describes, by name; an installed package's files do not change, so they are read once."""
    return tuple(sorted((read_gpu(path) for path in recipe_folder().glob("gpus/*.yaml")), key=lambda gpu: gpu.name))


def load_gpu(name: str) -> Gpu:
    """The GPU called `name`, or described by the file `name` when it ends in .yaml."""
    if name.endswith((".yaml", ".yml")):
        return read_gpu(Path(name))
    known = {alias: gpu for gpu in list_gpus() for alias in (gpu.name, *gpu.aliases)}
    if name.lower() not in known:
        raise RecipeError(f"--gpu {name}: no GPU has that name; {nearest(name.lower(), ['auto', *known])}")
    return known[name.lower()]


def choose_gpu(name: str) -> GpuChoice:
    """The GPU called `name`; for `auto`, the one this machine has, or its CPU."""
    if name != "auto":
        return GpuChoice(load_gpu(name), f"--gpu {name}")
    device = find_device()
    if device is None:
        return GpuChoice(load_gpu("cpu"), "no CUDA device was found")
    return recognise(device)


def find_device() -> Device | None:
    """The first CUDA device that PyTorch sees."""
    import torch  # seconds to import, and lists of GPUs do not need it

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    return Device(
        properties.name,
        (properties.major, properties.minor),
        properties.total_memory / 1e9,
        _bandwidth(getattr(properties, "memory_clock_rate", 0), getattr(properties, "memory_bus_width", 0)),
    )


def _bandwidth(kilohertz: int, bits: int) -> float | None:
    """GB/s of memory that moves two words of `bits` a cycle; None where the driver tells neither."""
    return 2e3 * kilohertz * bits / 8 / 1e9 or None


def recognise(device: Device) -> GpuChoice:
    """The GPU file that names `device`; for a device no file names, the closest one with what the driver tells."""
    for gpu in list_gpus():
        if device.name.lower() in (known.lower() for known in gpu.devices):
            return GpuChoice(gpu, f"found {device.name}")
    older = [
        gpu for gpu in list_gpus() if gpu.compute_capability and gpu.compute_capability <= device.compute_capability
    ]
    if not older:
        raise RecipeError(f"--gpu auto: {device.name} has compute capability {device.compute_capability}, below 7.0")
    # Bandwidth is what decode needs most, so the slowest of the newest fitting generation promises the least.
    newest = max(gpu.compute_capability or (0, 0) for gpu in older)
    closest = min((gpu for gpu in older if gpu.compute_capability == newest), key=lambda gpu: gpu.bandwidth_gb_s)
    own: dict[str, Any] = {"memory_gb": round(device.memory_gb, 1), "title": device.name, "measured": None}
    if device.bandwidth_gb_s is not None:
        own["bandwidth_gb_s"] = round(device.bandwidth_gb_s, 1)
    kept = "memory and bandwidth" if device.bandwidth_gb_s is not None else "memory"
    return GpuChoice(
        closest.model_copy(update={**own, "devices": (device.name,), "aliases": ()}),
        f"no file describes {device.name}; it is planned as {closest.name} with its own {kept}",
    )


def decode_seconds(gpu: Gpu, num_bytes: float, num_flops: float, precision: Precision) -> float:
    """The roofline of one step: the longer of reading `num_bytes` and computing `num_flops`."""
    rates = {**gpu.tflops, **(gpu.measured.tflops if gpu.measured else {})}
    if precision not in rates:
        raise RecipeError(f"{gpu.name} has no {precision} figure; {nearest(precision, rates)}")
    bandwidth = gpu.measured.read_gb_s if gpu.measured else gpu.bandwidth_gb_s
    return max(num_bytes / (bandwidth * 1e9), num_flops / (rates[precision] * 1e12))
