"""What calibration found: changes of weights by their names, and scales of caches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from autodeploy.quantization import Parts, Scheme
from autodeploy.weights import Add, Dequantized, Expression, Multiply, Quantized, WeightPlan
from autodeploy.weights.expression import Cast, Constant

PARTS = ("values", "scale", "zero", "global_scale")


@dataclass(frozen=True)
class Change:
    """What becomes of one weight `[N, K]`, or of a norm's weight or a bias `[N]`.

    It is multiplied by `rows [N]` and `columns [K]`, then `shift [N]` is added, all in float32. With a `scheme` it is
    stored so: as the `parts` say, or else rounded to the nearest; `input_scale []`, float32, is that of its input.
    """

    rows: Tensor | None = None
    columns: Tensor | None = None
    shift: Tensor | None = None
    scheme: Scheme | None = None
    input_scale: Tensor | None = None
    parts: Parts | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by the names of the fields, those of `parts` by their own."""
        plain = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("scheme", "parts")}
        stored = {} if self.parts is None else {part: getattr(self.parts, part) for part in PARTS}
        return {name: tensor for name, tensor in {**plain, **stored}.items() if tensor is not None}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], scheme: Scheme | None) -> Change:
        """The change that gave such `tensors`."""
        stored = {name: tensor for name, tensor in tensors.items() if name in PARTS}
        plain: dict[str, Any] = {name: tensor for name, tensor in tensors.items() if name not in PARTS}
        return cls(scheme=scheme, parts=Parts(**stored) if stored else None, **plain)


@dataclass(frozen=True)
class Calibration:
    """Changes by the names of weights; scales `[Hk]` of cached keys and values by `<attention>.k_scale` and `.v_scale`.

    `notes` say what could not be done, and why.
    """

    changes: Mapping[str, Change] = field(default_factory=dict)
    cache_scales: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def lay_over(self, plan: WeightPlan) -> None:
        """Replace the weights of `plan` that change. One input scale of several weights stays one."""
        scales: dict[float, Constant] = {}
        for name, change in self.changes.items():
            scale = None
            if change.input_scale is not None:
                new = Constant(f"{name}.input_scale", change.input_scale)
                scale = scales.setdefault(float(change.input_scale), new)
            plan[name] = _changed(name, plan[name], change, scale)

    def schemes(self) -> dict[str, Scheme]:
        """The schemes of the weights whose inputs or parts were found."""
        return {name: one.scheme for name, one in self.changes.items() if one.scheme is not None}

    def scales(self) -> dict[str, Expression]:
        """The scales of caches as weights."""
        return {name: Constant(name, tensor) for name, tensor in self.cache_scales.items()}


def _changed(name: str, weight: Expression, change: Change, input_scale: Constant | None) -> Expression:
    if change.parts is None:
        weight = _scaled(name, weight, change)
    if change.scheme is None:
        return weight
    parts = _parts(name, weight, change)
    scheme = change.scheme
    return Dequantized(
        parts["values"],
        parts["scale"],
        parts.get("zero"),
        parts.get("global_scale"),
        scheme.weights,
        weight.dtype,
        scheme.activations,
        scheme.activation_group,
        input_scale,
    )


def _scaled(name: str, weight: Expression, change: Change) -> Expression:
    result: Expression = Cast(weight, torch.float32)
    if change.rows is not None:
        shape = (-1, 1) if len(weight.shape) == 2 else (-1,)
        result = Multiply(result, Constant(f"{name}.rows", change.rows.float().reshape(shape)))
    if change.columns is not None:
        result = Multiply(result, Constant(f"{name}.columns", change.columns.float().reshape(1, -1)))
    if change.shift is not None:
        result = Add(result, Constant(f"{name}.shift", change.shift.float()))
    return weight if change.rows is change.columns is change.shift is None else Cast(result, weight.dtype)


def _parts(name: str, weight: Expression, change: Change) -> dict[str, Expression]:
    assert change.scheme is not None, "only what is stored has parts"
    if change.parts is None:
        return {str(part): one for part, one in Quantized.parts(weight, change.scheme).items()}
    held = {part: getattr(change.parts, part) for part in PARTS}
    return {part: Constant(f"{name}.{part}", tensor) for part, tensor in held.items() if tensor is not None}
