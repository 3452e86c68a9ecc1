"""Checkpoints that nvidia-modelopt exports for serving (`hf_quant_config.json`, and later `quantization_config`).

| algorithm | tensors of a projection |
|---|---|
| FP8, FP8_PER_CHANNEL_PER_TOKEN, FP8_PB_WO | `weight` e4m3 `[N, K]`; `weight_scale` `[]`, `[N]` or one a block, `[N / 128, 1, K / 128, 1]`; `input_scale` `[]` |
| W8A16, W8A8_SQ_PER_CHANNEL | `weight` int8 `[N, K]`, `weight_scale` `[N]`, `input_scale` `[]` |
| W4A16_AWQ | `weight` uint8 `[N / 2, K]`, of two rows a byte, the first in the low half, as two's complements; `weight_scale` `[N, G]` |
| NVFP4, NVFP4_AWQ, W4A16_NVFP4 | `weight` uint8 `[N, K / 2]`, `weight_scale` e4m3 `[N, K / 16]`, `weight_scale_2` `[]` |
| MXFP4 | `weight` uint8 `[N, K / 2]`, `weight_scale` uint8 `[N, K / 32]` |

`pre_quant_scale` `[K]` multiplies the inputs, where it could not be folded into the layer before. What a projection's
tensors are tells which it is; one without a `weight_scale` is not quantized.
"""  # noqa: E501 (rows of a table)

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from pydantic import Field

from autodeploy.checkpoints.form import WHERE, Fields, Settings, parse, plural
from autodeploy.checkpoints.kinds import Inputs, fp8, int4, int8, mxfp4, nvfp4
from autodeploy.checkpoints.module import Module, text
from autodeploy.checkpoints.words import Pairs, RowsApart
from autodeploy.errors import UnsupportedError, nearest
from autodeploy.quantization.scheme import SCHEMES, Scheme
from autodeploy.weights.dequantized import Dequantized
from autodeploy.weights.expression import Cast, Expression, Stored

ALGORITHMS: Mapping[str, str] = MappingProxyType(
    {
        "FP8": "fp8_tensor",
        "FP8_PB_WO": "fp8_weights",
        "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
        "MXFP4": "mxfp4",
        "NVFP4": "nvfp4",
        "NVFP4_AWQ": "nvfp4",
        "W4A16_AWQ": "int4",
        "W4A16_NVFP4": "nvfp4",
        "W8A16": "int8",
        "W8A8_SQ_PER_CHANNEL": "int8_dynamic",
    }
)
"""The schemes that read as many bytes."""

MIXED = "MIXED_PRECISION"


class Layer(Settings):
    """What is said of one projection where they differ."""

    quant_algo: str


class Modelopt(Settings):
    """What `hf_quant_config.json` or `quantization_config` says."""

    quant_algo: str | None = None
    quantized_layers: Mapping[str, Layer] = Field(default_factory=dict)
    name: Literal["modelopt"] = "modelopt"
    own: frozenset[str] = frozenset({"weight", "weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale"})

    @classmethod
    def of(cls, fields: Fields) -> Modelopt:
        """Read a config; UnsupportedError for an algorithm whose tensors we do not know."""
        nested: Mapping[str, Any] = fields.get("quantization", fields)
        found = parse(cls, {name: nested[name] for name in ("quant_algo", "quantized_layers") if name in nested})
        for algorithm in found.algorithms:
            if algorithm not in ALGORITHMS:
                raise UnsupportedError(
                    f"{WHERE}: quant_algo {algorithm!r} is not one that we read; {nearest(algorithm, ALGORITHMS)}"
                )
        return found

    @property
    def algorithms(self) -> list[str]:
        """Each algorithm once; none where only a cache is quantized."""
        named = [layer.quant_algo for layer in self.quantized_layers.values()]
        named += [] if self.quant_algo in (None, MIXED) else [str(self.quant_algo)]
        return list(dict.fromkeys(name.upper() for name in named))

    def describe(self) -> str:
        """The algorithms."""
        return plural(self.algorithms) if self.algorithms else "no weights"

    @property
    def scheme(self) -> Scheme | None:
        """What most projections get, for estimates; None where settings do not tell."""
        return SCHEMES[ALGORITHMS[self.algorithms[0]]] if self.algorithms else None

    def unpack(self, module: Module) -> Mapping[str, Expression]:
        """The weight of a projection that is quantized."""
        held = module.find("weight")
        if held is None or held.dtype.itemsize > 1:
            return {}
        if held.dtype is torch.float8_e4m3fn:
            found = _fp8(module)
        elif held.dtype is torch.int8:
            found = int8(module, held, "weight_scale", inputs=_inputs(module))
        elif held.dtype is torch.uint8:
            found = _four_bits(module, held)
        else:
            raise module.unsupported("weight", f"it is {text(held.dtype)}, which modelopt stores no weights in")
        return {"weight": replace(found, factor=_factor(module))}


def _fp8(module: Module) -> Dequantized:
    """Scales of rows go with scales of each token."""
    per_row = module.stored("weight_scale").shape == module.stored("weight").shape[:1]
    return fp8(module, "weight_scale", Inputs("dynamic") if per_row else _inputs(module))


def _four_bits(module: Module, held: Stored) -> Dequantized:
    scale = module.stored("weight_scale")
    if scale.dtype is torch.float8_e4m3fn:
        return nvfp4(module, "weight", "weight_scale", module.number("weight_scale_2"))
    if scale.dtype is torch.uint8:
        return mxfp4(module, "weight", "weight_scale")
    columns = held.shape[1]
    return int4(module, Pairs(RowsApart(held)), "weight_scale", columns // max(scale.shape[-1], 1))


def _inputs(module: Module) -> Inputs:
    return Inputs("static", scale=module.number("input_scale")) if "input_scale" in module.names else Inputs()


def _factor(module: Module) -> Expression | None:
    """What multiplies the inputs. Projections of one input have equal ones, which become one."""
    if "pre_quant_scale" not in module.names:
        return None
    values = module.values("pre_quant_scale").reshape(-1)
    found = module.pool.constant(module.key("pre_quant_scale"), values)
    return found if values.dtype is torch.float32 else Cast(found, torch.float32)
