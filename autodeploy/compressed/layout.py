"""How compressed-tensors names and lays out the parts of a quantized weight (its `QuantizationArgs` and compressors).

| format | tensors of a projection, beside its bias |
|---|---|
| float-quantized, int-quantized | `weight` fp8 or int8 `[N, K]`, `weight_scale` `[1]`, `[N, 1]` or one a block |
| pack-quantized | `weight_packed` int32 `[N, K * bits / 32]` of unsigned codes, the first in the low bits; `weight_scale` `[N, G]`; `weight_zero_point` int32 `[N * bits / 32, G]`; `weight_shape` `[2]` |
| nvfp4-pack-quantized | `weight_packed` uint8 `[N, K / 2]`, `weight_scale` e4m3 `[N, K / 16]`, which `weight_global_scale` `[1]` divides |
| mxfp4-pack-quantized | `weight_packed` uint8 `[N, K / 2]`, `weight_scale` uint8 `[N, K / 32]` |
"""  # noqa: E501 (rows of a table)

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from autodeploy.quantization import SCHEMES, Parts, Scheme, pack_nibbles
from autodeploy.quantization.formats import BLOCK

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """What a checkpoint says of projections of one scheme, and which tensors hold one."""

    format: str
    weights: Mapping[str, Any]
    inputs: Mapping[str, Any] | None
    tensors: Callable[[Parts], Tensors]
    """Tensors, by the end of their name, that hold a weight; of parts on the meta device, their shapes."""
    columns_each: int = 1
    """What the number of inputs must be a multiple of."""

    def declines(self, shape: tuple[int, int]) -> str | None:
        """Why a weight `[N, K]` cannot be written so, or None."""
        if shape[1] % self.columns_each:
            return f"its {shape[1]} inputs are no multiple of {self.columns_each}, as many as a word holds"
        return None


def layout_of(scheme: Scheme) -> Layout | None:
    """The layout that loaders know for a scheme, or None where there is none."""
    find = _LAYOUTS.get((scheme.weights, scheme.scope, scheme.activations, scheme.activation_group))
    return None if find is None else find(scheme)


def supported() -> list[str]:
    """The names of the schemes that have a layout."""
    return [name for name, scheme in SCHEMES.items() if layout_of(scheme) is not None]


def _float(scheme: Scheme) -> Layout:
    tensors = _single if scheme.scope == "tensor" else _plain
    return Layout("float-quantized", _arguments(scheme, 8, "float"), _inputs(scheme, "float"), tensors)


def _int(scheme: Scheme) -> Layout:
    return Layout("int-quantized", _arguments(scheme, 8, "int"), _inputs(scheme, "int"), _plain)


def _packed(scheme: Scheme) -> Layout:
    return Layout("pack-quantized", _arguments(scheme, scheme.bits, "int"), None, _words, 32 // scheme.bits)


def _nvfp4(scheme: Scheme) -> Layout:
    arguments = {**_arguments(scheme, 4, "float"), "strategy": "tensor_group", "scale_dtype": "torch.float8_e4m3fn"}
    return Layout("nvfp4-pack-quantized", arguments, None, _divided)


def _mxfp4(scheme: Scheme) -> Layout:
    arguments = {**_arguments(scheme, 4, "float"), "scale_dtype": "torch.uint8"}
    return Layout("mxfp4-pack-quantized", arguments, None, _pairs)


_LAYOUTS: Mapping[tuple[str, str, str, int], Callable[[Scheme], Layout]] = MappingProxyType(
    {
        ("fp8", "channel", "none", 0): _float,
        ("fp8", "channel", "dynamic", 0): _float,
        ("fp8", "channel", "static", 0): _float,
        ("fp8", "tensor", "none", 0): _float,
        ("fp8", "tensor", "static", 0): _float,
        ("fp8", "tensor", "dynamic", 0): _float,
        ("fp8", "block", "dynamic", BLOCK): _float,
        ("int8", "channel", "none", 0): _packed,
        ("int8", "group", "none", 0): _packed,
        ("int8", "channel", "dynamic", 0): _int,
        ("int8", "channel", "static", 0): _int,
        ("int4", "group", "none", 0): _packed,
        ("nvfp4", "group", "none", 0): _nvfp4,
        ("mxfp4", "group", "none", 0): _mxfp4,
    }
)
"""By a scheme's weights, scope, activations and their group."""


def _arguments(scheme: Scheme, bits: int, kind: str) -> dict[str, Any]:
    grouped = {"group_size": scheme.group or None}
    blocks = {"block_structure": [BLOCK, BLOCK]} if scheme.scope == "block" else {}
    given = {"num_bits": bits, "type": kind, "symmetric": not scheme.zeros, "strategy": scheme.scope, "dynamic": False}
    return {**given, **grouped, **blocks}


def _inputs(scheme: Scheme, kind: str) -> dict[str, Any] | None:
    if scheme.activations == "none":
        return None
    group = scheme.activation_group
    given = {"num_bits": 8, "type": kind, "symmetric": True, "dynamic": scheme.activations == "dynamic"}
    if scheme.activations == "static":
        return {**given, "strategy": "tensor", "group_size": None}
    return {**given, "strategy": "group" if group else "token", "group_size": group or None}


def _plain(parts: Parts) -> Tensors:
    return {"weight": parts.values, "weight_scale": parts.scale}


def _single(parts: Parts) -> Tensors:
    return {"weight": parts.values, "weight_scale": parts.scale.reshape(1)}


def _words(parts: Parts) -> Tensors:
    rows, columns = parts.values.shape
    if parts.values.dtype == torch.int8:
        shape, codes = (rows, columns), parts.values.view(torch.uint8) ^ 128  # their codes count from -128
    else:
        shape, codes = (rows, columns * 2), parts.values
    held = {"weight_packed": codes.view(torch.int32), "weight_scale": parts.scale, "weight_shape": torch.tensor(shape)}
    return held if parts.zero is None else {**held, "weight_zero_point": _zero_words(parts.zero)}


def _zero_words(zero: Tensor) -> Tensor:
    """Zero points `[N, G]` as int32 `[ceil(N / 8), G]`: eight of one group below each other, the first lowest."""
    rows, groups = zero.shape
    padded = zero.new_zeros(groups, -(-rows // 8) * 8)
    padded[:, :rows] = zero.T
    return pack_nibbles(padded).view(torch.int32).T.contiguous()


def _divided(parts: Parts) -> Tensors:
    assert parts.global_scale is not None, "nvfp4 has one"
    return {**_pairs(parts), "weight_global_scale": parts.global_scale.reciprocal().reshape(1)}


def _pairs(parts: Parts) -> Tensors:
    return {"weight_packed": parts.values, "weight_scale": parts.scale}
