"""Checkpoints of gpt-oss, whose experts are in MXFP4.

For the experts of a layer, `gate_up_proj_blocks` uint8 `[E, N, K / 32, 16]` has pairs of e2m1, the first in the low
half, and `gate_up_proj_scales` uint8 `[E, N, K / 32]` the exponents of groups of 32 (OCP Microscaling v1.0); so has
`down_proj`. The model multiplies by `[E, K, N]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from autodeploy.checkpoints.form import Fields, Settings, parse
from autodeploy.checkpoints.module import Module
from autodeploy.quantization.scheme import Scheme
from autodeploy.weights.dequantized import Dequantized
from autodeploy.weights.expression import Expression
from autodeploy.weights.layout import Reshape, transpose

PROJECTIONS = ("gate_up_proj", "down_proj")
GROUP = 32


class Mxfp4(Settings):
    """There is nothing to say but what is left as it is, which the tensors tell."""

    name: Literal["mxfp4"] = "mxfp4"
    own: frozenset[str] = frozenset(f"{one}_{part}" for one in PROJECTIONS for part in ("blocks", "scales"))

    @classmethod
    def of(cls, fields: Fields) -> Mxfp4:
        """Read a config, which says no more than the form."""
        return parse(cls, {})

    def describe(self) -> str:
        """What is quantized."""
        return f"experts in 4 bits, groups of {GROUP}"

    @property
    def scheme(self) -> Scheme | None:
        """What most projections get, for estimates; None where settings do not tell."""
        return None

    def unpack(self, module: Module) -> Mapping[str, Expression]:
        """The projections of a layer's experts, `[E, K, N]`."""
        return {one: _experts(module, one) for one in PROJECTIONS if f"{one}_blocks" in module.names}

    def outline(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What such a checkpoint holds of a model whose own tensors are these, by their names; on the meta device."""
        held = {name: tensor.to("meta") for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            if name.endswith(tuple(f".experts.{one}" for one in PROJECTIONS)):
                experts, columns, rows = held.pop(name).shape
                groups = (experts, rows, columns // GROUP)
                held[f"{name}_blocks"] = tensor.new_empty((*groups, GROUP // 2), dtype=torch.uint8, device="meta")
                held[f"{name}_scales"] = tensor.new_empty(groups, dtype=torch.uint8, device="meta")
        return held


def _experts(module: Module, name: str) -> Expression:
    blocks = module.stored(f"{name}_blocks")
    if len(blocks.shape) != 4 or blocks.shape[-1] * 2 != GROUP or blocks.dtype is not torch.uint8:
        raise module.damaged(f"{name}_blocks", f"{list(blocks.shape)} are no blocks of {GROUP} numbers, two a byte")
    experts, rows, groups, _ = blocks.shape
    scales = module.expect(f"{name}_scales", (experts, rows, groups), torch.uint8)
    count = experts * rows
    values, exponents = Reshape(blocks, (count, groups * GROUP // 2)), Reshape(scales, (count, groups))
    numbers = Dequantized(values, exponents, None, None, "mxfp4", torch.float32)
    return transpose(Reshape(numbers, (experts, rows, groups * GROUP)), 1, 2)
