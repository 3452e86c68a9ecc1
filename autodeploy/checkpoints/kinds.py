"""Weights of each format of `autodeploy.quantization.formats` from a checkpoint's tensors, whose shapes are checked."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, gcd, prod

import torch

from autodeploy.checkpoints.module import Module, text
from autodeploy.checkpoints.words import Columns
from autodeploy.quantization.formats import BLOCK, blocks
from autodeploy.quantization.scheme import Activations, Scheme
from autodeploy.weights.dequantized import Dequantized
from autodeploy.weights.expression import Cast, Constant, Expression
from autodeploy.weights.layout import Expand, Reshape

SMALLEST_GROUP = 8


@dataclass(frozen=True)
class Inputs:
    """What becomes of a projection's inputs: see `Dequantized`."""

    activations: Activations = "none"
    group: int = 0
    scale: Constant | None = None
    factor: Expression | None = None


AS_THEY_ARE = Inputs()


def fp8(module: Module, scale: str, inputs: Inputs = AS_THEY_ARE) -> Dequantized:
    """`weight` e4m3 `[N, K]` with one scale, one for each row, or one for each block of 128 by 128."""
    values = module.stored("weight")
    if values.dtype is not torch.float8_e4m3fn or len(values.shape) != 2:
        raise module.unsupported(
            "weight", f"it is {text(values.dtype)} {list(values.shape)}, and we read e4m3 matrices"
        )
    rows, columns = values.shape
    found = module.scale(scale)
    held = tuple(size for size in found.shape if size > 1)
    whole = blocks((rows, columns))
    if prod(found.shape) == 1:
        shaped = Reshape(found, (1, 1))
    elif held == (rows,):
        shaped = Reshape(found, (rows, 1))
    elif held == tuple(size for size in whole if size > 1):
        shaped = Reshape(found, whole)
    else:
        raise module.damaged(
            scale, f"{list(found.shape)} are no scales of {rows} by {columns} weights, or of their blocks"
        )
    return _dequantized(values, shaped, "fp8", _fitting(inputs, columns))


def int8(
    module: Module,
    values: Expression,
    scale: str,
    group: int = 0,
    inputs: Inputs = AS_THEY_ARE,
    *,
    scales: Expression | None = None,
) -> Dequantized:
    """`values` int8 `[N, K]` with one scale, one for each row, or one for each group of it.

    `scale` names the tensor of the scales, for messages; `scales` are these where they are stored in another layout.
    """
    rows, columns = values.shape
    found = scales or module.stored(scale)
    if prod(found.shape) == 1:
        return _dequantized(values, Expand(Reshape(found, (1, 1)), (rows, 1)), "int8", inputs)
    if found.shape in ((rows,), (rows, 1)):
        return _dequantized(values, Reshape(found, (rows, 1)), "int8", inputs)
    return _dequantized(values, _grouped(module, scale, found, columns, group), "int8", AS_THEY_ARE)


def int4(
    module: Module,
    values: Expression,
    scale: str,
    group: int,
    *,
    scales: Expression | None = None,
    zero: Expression | None = None,
    order: Constant | None = None,
    factor: Expression | None = None,
) -> Dequantized:
    """`values` uint8 `[N, K / 2]` with a scale, and perhaps a zero point uint8, for each group of a row: `[N, G]`.

    `scale` names the tensor of the scales, for messages; `scales` are these where they are stored in another layout.
    """
    rows, columns = values.shape[0], values.shape[1] * 2
    found = scales or module.stored(scale)
    if prod(found.shape) == rows:
        found = Reshape(found, (rows, 1))
    if zero is not None and zero.shape != found.shape:
        raise module.damaged(
            scale, f"{list(found.shape)} scales and {list(zero.shape)} zero points are not of one weight"
        )
    laid = _grouped(module, scale, found, columns, group)
    zeros = None if zero is None else _grouped(module, scale, zero, columns, group)
    return Dequantized(values, laid, zeros, None, "int4", torch.float32, factor=factor, order=order)


def grouped_int4(group: int, *, zeros: bool) -> Scheme:
    """The scheme of 4-bit weights in groups; one group a row counts as groups of 128."""
    return Scheme(weights="int4", scope="group", group=group if group > 0 else BLOCK, zeros=zeros)


def nvfp4(
    module: Module, values: str, scale: str, global_scale: Constant, factor: Expression | None = None
) -> Dequantized:
    """Pairs of e2m1 uint8 `[N, K / 2]`, scales e4m3 `[N, K / 16]`, and the number that multiplies these."""
    packed = module.stored(values)
    rows, half = packed.shape
    found = module.expect(scale, (rows, half // 8), torch.float8_e4m3fn)
    return Dequantized(packed, found, None, global_scale, "nvfp4", torch.float32, factor=factor)


def mxfp4(module: Module, values: str, scale: str) -> Dequantized:
    """Pairs of e2m1 uint8 `[N, K / 2]` and exponents uint8 `[N, K / 32]`."""
    packed = module.stored(values)
    rows, half = packed.shape
    return Dequantized(
        packed, module.expect(scale, (rows, half // 16), torch.uint8), None, None, "mxfp4", torch.float32
    )


def order_of(module: Module, name: str, columns: int, group: int) -> Constant | None:
    """The order that brings the inputs of each group together, from the group of each (`g_idx [K]`).

    None where they are together already, or where a checkpoint left the tensor without values. Raises CheckpointError
    where groups are not of `group` inputs, all but the last.
    """
    if name not in module.names:
        return None
    groups = module.values(name).long()
    expected = torch.arange(columns) // group
    if groups.shape != (columns,):
        raise module.damaged(name, f"its shape is {list(groups.shape)} and should be {[columns]}")
    if torch.equal(groups, expected) or bool((groups < 0).all()):
        return None
    order = groups.argsort(stable=True)
    if not torch.equal(groups[order], expected):
        raise module.damaged(name, f"its groups are not of {group} inputs each")
    return module.pool.constant(module.key("order"), order)


def _dequantized(values: Expression, scale: Expression, format: str, inputs: Inputs) -> Dequantized:
    wide = scale if scale.dtype is torch.float32 else Cast(scale, torch.float32)
    given = (inputs.activations, inputs.group, inputs.scale, inputs.factor)
    return Dequantized(values, wide, None, None, format, torch.float32, *given)


def _fitting(inputs: Inputs, columns: int) -> Inputs:
    """Inputs in groups that do not divide them stay as they are."""
    return AS_THEY_ARE if inputs.group and columns % inputs.group else inputs


def _grouped(module: Module, name: str, scale: Expression, columns: int, group: int) -> Expression:
    """A number for each group of `columns`; where the last is shorter, for each part that all groups divide into."""
    count = scale.shape[-1]
    group = columns if group <= 0 else group
    if ceil(columns / group) != count:
        raise module.damaged(name, f"{list(scale.shape)} are no numbers for groups of {group} among {columns} inputs")
    if columns % group == 0:
        return scale
    part = gcd(columns, group)
    if part < SMALLEST_GROUP:
        raise module.unsupported(name, f"{columns} inputs in groups of {group} divide only into groups of {part}")
    of_each = torch.arange(columns // part) * part // group
    return Columns(scale, module.pool.constant(f"{name} of {columns} by {part}", of_each))
