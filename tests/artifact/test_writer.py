"""Where weights stand in their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from autodeploy.artifact.writer import write_weights
from autodeploy.quantization import SCHEMES
from autodeploy.weights import MemorySource, Quantized, Ranges, Stored, WeightPlan

SHAPES = {"even": (256, 256), "odd": (3, 256), "bias": (7,)}


class Counting(MemorySource):
    reads: int = 0

    def read(self, key: str, ranges: Ranges | None = None) -> Tensor:
        self.reads += 1
        return super().read(key, ranges)


def starts(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    return {name: 8 + size + one["data_offsets"][0] for name, one in header.items() if name != "__metadata__"}


@pytest.mark.parametrize("scheme", ["fp8", "int4_zeros", "nvfp4", "fp8_tensor"])
def test_quantized_weights_are_read_once_and_start_at_multiples_of_their_width(tmp_path: Path, scheme: str) -> None:
    source = Counting({name: torch.randn(shape).bfloat16() for name, shape in SHAPES.items()})
    plan = WeightPlan()
    for name in SHAPES:
        stored = Stored.of(name, source)
        parts = {name: stored} if name == "bias" else Quantized.parts(stored, SCHEMES[scheme])
        plan.update({f"{name}.{part}": one for part, one in parts.items()})
    write_weights(tmp_path, plan, source)
    (file,) = tmp_path.iterdir()
    assert all(start % plan[name].dtype.itemsize == 0 for name, start in starts(file).items())
    written = load_file(file)
    assert all(torch.equal(written[name].float(), one.read(source).float()) for name, one in plan.items())


def test_a_weight_is_quantized_once(tmp_path: Path) -> None:
    source = Counting({"even": torch.randn(256, 256)})
    parts = Quantized.parts(Stored.of("even", source), SCHEMES["int4_zeros"])
    write_weights(tmp_path, WeightPlan({f"even.{part}": one for part, one in parts.items()}), source)
    assert source.reads == 1
