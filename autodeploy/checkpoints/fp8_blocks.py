"""Checkpoints in fp8 as DeepSeek-V3 and transformers' fine-grained fp8 store them, and those of one scale a weight.

A projection has `weight` e4m3 `[N, K]` and `weight_scale_inv` (or `weight_scale`), what its numbers are multiplied by:
one for each block of 128 by 128, `[ceil(N / 128), ceil(K / 128)]` (DeepSeek-V3, 3.3.2), one for each row, or one. A
scale of the inputs, `activation_scale` or `input_scale` `[]`, is there where these are quantized statically; otherwise
they are as they come, each 128 of them by a scale of their own where weights are in blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from autodeploy.checkpoints.form import WHERE, Fields, Settings, parse
from autodeploy.checkpoints.kinds import Inputs, fp8
from autodeploy.checkpoints.module import Module
from autodeploy.errors import UnsupportedError
from autodeploy.quantization.formats import BLOCK
from autodeploy.quantization.scheme import SCHEMES, Scheme
from autodeploy.weights.expression import Expression


class Fp8(Settings):
    """What `quantization_config` says."""

    activation_scheme: Literal["dynamic", "static"] = "dynamic"
    weight_block_size: tuple[int, int] | None = None
    name: Literal["fp8"] = "fp8"
    own: frozenset[str] = frozenset({"weight", "weight_scale_inv", "weight_scale", "activation_scale", "input_scale"})

    @classmethod
    def of(cls, fields: Fields) -> Fp8:
        """Read a config; UnsupportedError for blocks of another size."""
        found = parse(cls, fields)
        if found.weight_block_size not in (None, (BLOCK, BLOCK)):
            size = list(found.weight_block_size or ())
            raise UnsupportedError(f"{WHERE}: weight_block_size {size}: we read blocks of {BLOCK} by {BLOCK}")
        return found

    def describe(self) -> str:
        """What shares a scale."""
        return f"8 bits in blocks of {BLOCK} by {BLOCK}" if self.weight_block_size else "8 bits"

    @property
    def scheme(self) -> Scheme | None:
        """What most projections get, for estimates; None where settings do not tell."""
        return SCHEMES["fp8_block" if self.weight_block_size else "fp8_tensor"]

    def unpack(self, module: Module) -> Mapping[str, Expression]:
        """The weight of a projection that is quantized."""
        held = module.find("weight")
        if held is None or held.dtype.itemsize > 1:
            return {}
        scale = "weight_scale" if "weight_scale" in module.names else "weight_scale_inv"
        return {"weight": fp8(module, scale, self._inputs(module))}

    def _inputs(self, module: Module) -> Inputs:
        if self.activation_scheme == "static":
            name = "input_scale" if "input_scale" in module.names else "activation_scale"
            return Inputs("static", scale=module.number(name))
        return Inputs("dynamic", BLOCK if self.weight_block_size else 0)
