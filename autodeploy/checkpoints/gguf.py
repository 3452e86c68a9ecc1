"""GGUF files as `autodeploy.hub.gguf_blocks` rewrites them: codes of a weight, and scales and zeros of its groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from autodeploy.checkpoints.form import Fields, Settings, parse
from autodeploy.checkpoints.kinds import int8
from autodeploy.checkpoints.module import Module
from autodeploy.quantization.scheme import Scheme
from autodeploy.weights.dequantized import Dequantized
from autodeploy.weights.expression import Expression


class Gguf(Settings):
    """There is nothing to say: what a module's tensors are called and of which dtype they are tells all."""

    name: Literal["gguf"] = "gguf"
    own: frozenset[str] = frozenset({"codes", "scale", "zero"})

    @classmethod
    def of(cls, fields: Fields) -> Gguf:
        """Read a config, which says no more than the form."""
        return parse(cls, {})

    def describe(self) -> str:
        """What weights are kept in."""
        return "GGUF blocks of 4 and 8 bits"

    @property
    def scheme(self) -> Scheme | None:
        """What most projections get, for estimates; None where settings do not tell."""
        return None

    def unpack(self, module: Module) -> Mapping[str, Expression]:
        """The weight of a module that is kept in blocks."""
        codes = module.find("codes")
        if codes is None:
            return {}
        scale, rows = module.scale("scale"), codes.shape[0]
        if codes.dtype is torch.int8:
            return {"weight": int8(module, codes, "scale", codes.shape[1] // scale.shape[1])}
        zero = module.expect("zero", (rows, scale.shape[1]), torch.float32) if "zero" in module.names else None
        return {"weight": Dequantized(codes, scale, zero, None, "int4", torch.float32)}
