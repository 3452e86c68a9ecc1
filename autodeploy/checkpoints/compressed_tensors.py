"""Checkpoints of compressed-tensors, as LLM Compressor writes them.

| format | tensors of a projection |
|---|---|
| float-quantized, int-quantized, naive-quantized | `weight` fp8 or int8 `[N, K]`, `weight_scale` `[1]`, `[N, 1]`, `[N, G]` or one a block, `input_scale` `[1]` |
| pack-quantized | `weight_packed` int32 `[N, K bits / 32]`, codes 0 to 15 or 255, the first lowest; `weight_zero_point` int32 `[N bits / 32, G]`; `weight_shape` `[2]`; `weight_g_idx` `[K]` |
| nvfp4-pack-quantized | `weight_packed` uint8 `[N, K / 2]`, `weight_scale` e4m3 `[N, K / 16]`, which `weight_global_scale` `[1]` divides |
| mxfp4-pack-quantized | `weight_packed` uint8 `[N, K / 2]`, `weight_scale` uint8 `[N, K / 32]` |

What a projection's tensors are called says which it is; a module without them is not quantized, whatever the config's
`ignore` says. Its group of the config says the rest.
"""  # noqa: E501 (rows of a table)

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field

from autodeploy.checkpoints.form import WHERE, Fields, Settings, parse, plural
from autodeploy.checkpoints.kinds import AS_THEY_ARE, Inputs, fp8, grouped_int4, int4, int8, mxfp4, nvfp4, order_of
from autodeploy.checkpoints.module import Module
from autodeploy.checkpoints.words import Bytes, Centred, Codes, Raised
from autodeploy.errors import UnsupportedError, nearest
from autodeploy.quantization.scheme import SCHEMES, Scheme
from autodeploy.weights.dequantized import Dequantized
from autodeploy.weights.expression import Expression
from autodeploy.weights.layout import Slice

FORMATS = (
    "dense",
    "float-quantized",
    "int-quantized",
    "mixed-precision",
    "mxfp4-pack-quantized",
    "naive-quantized",
    "nvfp4-pack-quantized",
    "pack-quantized",
)


class Arguments(Settings):
    """How one kind of tensor is quantized."""

    num_bits: int = 8
    type: Literal["int", "float"] = "int"
    symmetric: bool = True
    group_size: int | None = None
    dynamic: bool | str = False

    def __str__(self) -> str:
        grouped = f" in groups of {self.group_size}" if (self.group_size or 0) > 0 else ""
        return f"{self.num_bits} bits ({self.type}){grouped}"


class Group(Settings):
    """Projections that are quantized alike; `targets` are names, expressions after `re:`, or classes of modules."""

    targets: tuple[str, ...]
    weights: Arguments | None = None
    input_activations: Arguments | None = None

    def names(self, path: str) -> bool:
        """Whether the group is of the projection `path`: a class is of any, since only projections are quantized."""
        return any(_names(target, path) for target in self.targets)


def _names(target: str, path: str) -> bool:
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), path) is not None
    return target == path or (target[:1].isupper() and "." not in target)


class CompressedTensors(Settings):
    """What `quantization_config` says."""

    format: str = "dense"
    config_groups: Mapping[str, Group] = Field(default_factory=dict)
    sparsity_config: Mapping[str, Any] | None = None
    name: Literal["compressed-tensors"] = "compressed-tensors"
    own: frozenset[str] = frozenset(
        {
            *("weight", "weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"),
            *("weight_global_scale", "input_scale", "input_zero_point", "input_global_scale"),
        }
    )

    @classmethod
    def of(cls, fields: Fields) -> CompressedTensors:
        """Read a config; UnsupportedError for a format that we do not."""
        found = parse(cls, fields)
        sparse = (found.sparsity_config or {}).get("format")
        for format in (found.format, *([sparse] if sparse else [])):
            if format not in FORMATS:
                raise UnsupportedError(
                    f"{WHERE}: format {format!r} is not one that we read; {nearest(format, FORMATS)}"
                )
        return found

    def describe(self) -> str:
        """The format, and the bits of each group's weights."""
        kinds = [str(group.weights) for group in self.config_groups.values() if group.weights is not None]
        return f"{self.format}, {plural(list(dict.fromkeys(kinds)))}" if kinds else self.format

    @property
    def scheme(self) -> Scheme | None:
        """What most projections get, for estimates; None where settings do not tell."""
        group = next((one for one in self.config_groups.values() if one.weights is not None), None)
        return None if group is None or group.weights is None else _scheme(group.weights, group.input_activations)

    def unpack(self, module: Module) -> Mapping[str, Expression]:
        """The weight of a projection that is quantized."""
        if "weight_packed" in module.names:
            return {"weight": self._packed(module)}
        held = module.find("weight")
        if held is None or "weight_scale" not in module.names or held.dtype.itemsize > 1:
            return {}
        group = self._group(module)
        if held.dtype is not torch.int8:
            return {"weight": fp8(module, "weight_scale", _inputs(module, group, "float"))}
        assert group.weights is not None, "groups without weights quantize none"
        if not group.weights.symmetric:
            raise module.unsupported("weight_zero_point", "weights in 8 bits with zero points have no operator")
        inputs = _inputs(module, group, "int")
        return {"weight": int8(module, held, "weight_scale", group.weights.group_size or 0, inputs)}

    def _packed(self, module: Module) -> Dequantized:
        weights = self._group(module).weights
        assert weights is not None, "groups without weights quantize none"
        if weights.type == "float" and weights.num_bits == 4:
            if "weight_global_scale" not in module.names and weights.group_size == 32:
                return mxfp4(module, "weight_packed", "weight_scale")
            return nvfp4(module, "weight_packed", "weight_scale", module.number("weight_global_scale", inverse=True))
        if weights.type == "int" and weights.num_bits == 4:
            return _int4(module, weights)
        if weights.type == "int" and weights.num_bits == 8 and weights.symmetric:
            codes = Slice(Bytes(module.stored("weight_packed")), 1, 0, _columns(module, 8))
            return int8(module, Centred(codes), "weight_scale", weights.group_size or 0)
        zeros = "" if weights.symmetric else " with zero points"
        raise module.unsupported("weight_packed", f"{weights}{zeros}; we read 4 bits, and 8 without zero points")

    def _group(self, module: Module) -> Group:
        found = [group for group in self.config_groups.values() if group.weights is not None]
        by_name = (group for group in found if group.names(module.path))
        group = next(by_name, None)
        if group is None:
            raise module.damaged(min(module.names), f"no group of {WHERE} says how it is quantized")
        return group


def _scheme(weights: Arguments, inputs: Arguments | None) -> Scheme:
    """The named scheme that reads as many bytes and computes in the same format."""
    if weights.num_bits == 4 and weights.type == "int":
        return grouped_int4(weights.group_size or 0, zeros=not weights.symmetric)
    if weights.num_bits == 4:
        return SCHEMES["mxfp4" if weights.group_size == 32 else "nvfp4"]
    if weights.type == "float":
        return SCHEMES["fp8_weights" if inputs is None else "fp8"]
    return SCHEMES["int8" if inputs is None else "int8_dynamic"]


def _int4(module: Module, weights: Arguments) -> Dequantized:
    packed = module.stored("weight_packed")
    rows, columns = packed.shape[0], _columns(module, 4)
    group = weights.group_size or 0
    values = Slice(Bytes(packed), 1, 0, columns // 2)
    order = order_of(module, "weight_g_idx", columns, group) if group > 0 else None
    zero = None if weights.symmetric else _zero(module, rows)
    return int4(module, values, "weight_scale", group, zero=zero, order=order)


def _zero(module: Module, rows: int) -> Expression:
    """Zero points `[N, G]`: packed, or as int8 that count from -8."""
    found = module.stored("weight_zero_point")
    return Raised(found, 8) if found.dtype is torch.int8 else Slice(Codes(found, 4, 0), 0, 0, rows)


def _columns(module: Module, bits: int) -> int:
    """How many inputs a packed weight has, whose last word may not be full."""
    packed = module.stored("weight_packed")
    most = packed.shape[1] * 32 // bits
    columns = int(module.values("weight_shape")[-1]) if "weight_shape" in module.names else most
    if not most - 32 // bits < columns <= most or columns % 2:
        raise module.damaged("weight_shape", f"{columns} inputs are not packed in {packed.shape[1]} words")
    return columns


def _inputs(module: Module, group: Group, kind: str) -> Inputs:
    """How inputs are quantized; those that would be in another format than the weights stay as they are."""
    found = group.input_activations
    if found is None or found.num_bits != 8 or found.type != kind or not found.symmetric:
        return AS_THEY_ARE
    if found.dynamic:
        return Inputs("dynamic", max(found.group_size or 0, 0))
    return Inputs("static", scale=module.number("input_scale"))
