"""Which tensors of a checkpoint are written quantized, and what becomes of the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from autodeploy.compressed.files import Unit
from autodeploy.compressed.layout import Layout, layout_of, supported
from autodeploy.errors import UnsupportedError, nearest
from autodeploy.quantization import Parts, Scheme, name_of
from autodeploy.weights import Cast, Expression, PartReader, Quantized, Stored, WeightPlan, stored
from autodeploy.weights.checkpoint import natural_order
from autodeploy.weights.source import TensorSource

PARTS = ("values", "scale", "zero", "global_scale")
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Assignment:
    """Schemes by the path of a projection's module, the checkpoint's keys of their weights, and what stays, and why."""

    schemes: Mapping[str, Scheme]
    keys: Mapping[str, str]
    left: tuple[str, ...]
    notes: tuple[str, ...]


def assign(model: PreTrainedModel, plan: WeightPlan, source: TensorSource, marks: Mapping[str, Scheme]) -> Assignment:
    """Settle what is written of `marks`, the schemes that rules gave to weights by their names.

    A weight that the checkpoint does not hold by itself, as a linear's, stays as it is. Raises UnsupportedError for a
    scheme that compressed-tensors has no layout for.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    uses = Counter(leaf.key for one in plan.values() for leaf in one.leaves() if isinstance(leaf, Stored))
    schemes, keys, notes = {}, {}, []
    for weight, scheme in marks.items():
        name, layout = weight.rpartition(".")[0], _layout(scheme)
        key = _key(plan[weight]) if weight in plan and name in linears else None
        if key is None or not key.endswith(".weight"):
            reason: str | None = "the checkpoint holds its weight in another form than a linear's"
        elif uses[key] > 1:
            reason = f"it shares its weight, {key}"
        else:
            rows, columns = plan[weight].shape
            reason = layout.declines((rows, columns))
        if reason is not None or key is None:
            notes.append(f"{name} stays as it is: {reason}")
            continue
        schemes[name], keys[name] = scheme, key
    left = [name for name in linears if name not in schemes]
    return Assignment(schemes, keys, (*left, *_foreign(plan, source, keys)), tuple(notes))


def units(plan: WeightPlan, calibrated: WeightPlan, source: TensorSource, found: Assignment) -> list[Unit]:
    """What the new checkpoint holds, in the order of the old one's keys.

    `calibrated` is `plan` with what a calibration changed: projections, and what makes their inputs.
    """
    quantized = {key: name for name, key in found.keys.items()}
    dtypes = {leaf.key: one.dtype for one in plan.values() for leaf in one.leaves() if isinstance(leaf, Stored)}
    changed = {_key(plan[name]): one for name, one in calibrated.items() if one != plan[name]}
    return [
        _quantized(key, calibrated[f"{quantized[key]}.weight"], source, found.schemes[quantized[key]])
        if key in quantized
        else _kept(key, changed.get(key), source, dtypes.get(key))
        for key in sorted(source.keys(), key=natural_order)
    ]


def _layout(scheme: Scheme) -> Layout:
    layout = layout_of(scheme)
    if layout is None:
        known = supported()
        raise UnsupportedError(
            f"scheme {name_of(scheme)}: compressed-tensors has no layout for it; {nearest(name_of(scheme), known)}"
        )
    return layout


def _key(expression: Expression) -> str | None:
    """The checkpoint's tensor that a weight is, but for its dtype; None where it is made of it, or of several."""
    inner = expression.x if isinstance(expression, Cast) else expression
    return inner.key if isinstance(inner, Stored) else None


def _foreign(plan: WeightPlan, source: TensorSource, keys: Mapping[str, str]) -> list[str]:
    """Matrices that are no linear in transformers, such as those of experts, but may be one to another server.

    Numbers in their paths are folded, so that thousands of experts are a few expressions.
    """
    direct = {_key(one) for one in plan.values()}
    names = [key.removesuffix(".weight") for key in source.keys() if key.endswith(".weight") and key not in direct]  # noqa: SIM118 (it is not a mapping)
    matrices = [name for name in names if len(source.shape(f"{name}.weight")) == 2]
    return list(dict.fromkeys("re:" + re.sub(r"(?<=\\\.)\d+", r"\\d+", re.escape(name)) for name in matrices))


def _quantized(key: str, weight: Expression, source: TensorSource, scheme: Scheme) -> Unit:
    layout, prefix = _layout(scheme), key.removesuffix("weight")
    held = stored(weight)
    parts = _rounded(weight, scheme) if held is None else dict(zip(PARTS, held.parts, strict=True))
    extra = {} if held is None or held.input_scale is None else {f"{prefix}input_scale": held.input_scale}

    def named(tensors: Mapping[str, torch.Tensor | None], others: Mapping[str, torch.Tensor]) -> Tensors:
        laid_out = {prefix + part: tensor for part, tensor in layout.tensors(Parts(**tensors)).items()}  # type: ignore[arg-type]
        return {**laid_out, **{name: tensor.reshape(1) for name, tensor in others.items()}}

    def read() -> Tensors:
        reader = PartReader(source)
        tensors = {part: None if one is None else reader.read(one) for part, one in parts.items()}
        return named(tensors, {name: one.read(source) for name, one in extra.items()})

    empty = {part: None if one is None else _empty(one) for part, one in parts.items()}
    return Unit(named(empty, {name: _empty(one) for name, one in extra.items()}), read)


def _rounded(weight: Expression, scheme: Scheme) -> dict[str, Expression | None]:
    return {str(part): one for part, one in Quantized.parts(weight, scheme).items()}


def _kept(key: str, changed: Expression | None, source: TensorSource, dtype: torch.dtype | None) -> Unit:
    """A tensor as it is, or as a calibration changed it, but in the dtype that the model is written in."""
    expression = Stored.of(key, source) if changed is None else changed
    if dtype not in (None, expression.dtype):
        expression = Cast(expression, dtype)
    return Unit({key: _empty(expression)}, lambda: {key: expression.read(source)})


def _empty(expression: Expression) -> torch.Tensor:
    return torch.empty(expression.shape, dtype=expression.dtype, device="meta")
