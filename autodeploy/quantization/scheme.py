"""What is quantized how: a scheme says in which formats a projection keeps its weight and takes its input."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from autodeploy.errors import RecipeError, nearest
from autodeploy.quantization.formats import BLOCK, MAXIMUM, PACKED

Weights = Literal["none", "int8", "int4", "fp8", "nvfp4", "mxfp4"]
Scope = Literal["tensor", "channel", "group", "block"]
Activations = Literal["none", "dynamic", "static"]


class Scheme(BaseModel):
    """How one projection is quantized.

    `weights` names a format of `autodeploy.quantization.formats`. One scale serves a `scope`: the whole weight, the
    weights of one output (`channel`), `group` neighbours among those, or a block of 128 by 128. `zeros` gives int4 a
    zero point a group. `activations` are quantized to the format of the weights: with a scale for each row, or for
    each `activation_group` of it, found as it comes (`dynamic`), or with one that calibration found (`static`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Weights = "none"
    scope: Scope = "channel"
    group: int = 0
    zeros: bool = False
    activations: Activations = "none"
    activation_group: int = 0

    @model_validator(mode="after")
    def _is_possible(self) -> Scheme:
        if (self.scope == "group") != (self.group > 0):
            raise ValueError("a group has a size, and no other scope has")
        if self.scope != _SCOPES.get(self.weights, self.scope) and self.weights != "none":
            raise ValueError(f"{self.weights} has a scale for each {_SCOPES[self.weights]}")
        if self.weights in _GROUPS and self.group != _GROUPS[self.weights]:
            raise ValueError(f"{self.weights} has groups of {_GROUPS[self.weights]}")
        if self.zeros and self.weights != "int4":
            raise ValueError("only int4 has zero points")
        if self.activations != "none" and self.weights not in MAXIMUM:
            raise ValueError(f"activations are quantized to the format of the weights, which {self.weights} is not")
        return self

    @property
    def is_quantized(self) -> bool:
        """Whether it changes anything."""
        return self.weights != "none"

    @property
    def bits(self) -> int:
        """Of one weight, without its share of the scales; 16 where it is not quantized."""
        return 16 if not self.is_quantized else 4 if self.weights in PACKED else 8

    def declines(self, shape: tuple[int, int]) -> str | None:
        """Why a weight `[N, K]` cannot be quantized so, or None."""
        columns = shape[1]
        if self.weights in PACKED and columns % 2:
            return f"its {columns} inputs do not pair up"
        for group in (self.group, self.activation_group):
            if group and columns % group:
                return f"its {columns} inputs are no multiple of the group of {group}"
        return None

    def __str__(self) -> str:
        if not self.is_quantized:
            return "not quantized"
        scope = {"group": f"a scale each {self.group} weights", "block": f"a scale each {BLOCK} by {BLOCK} weights"}
        places = {"tensor": "one scale", "channel": "a scale each output", **scope}
        zeros = " and a zero point" if self.zeros else ""
        each = f"each {self.activation_group} inputs" if self.activation_group else "each token"
        inputs = {"none": "", "static": ", inputs too, by a calibrated scale", "dynamic": f", inputs too, {each}"}
        return f"weights in {self.weights}, {places[self.scope]}{zeros}{inputs[self.activations]}"


_SCOPES: Mapping[str, str] = MappingProxyType({"int4": "group", "nvfp4": "group", "mxfp4": "group"})
_GROUPS: Mapping[str, int] = MappingProxyType({"nvfp4": 16, "mxfp4": 32})


def _fp8(scope: Scope, activation_group: int = 0) -> Scheme:
    return Scheme(weights="fp8", scope=scope, activations="dynamic", activation_group=activation_group)


def _int4(group: int, *, zeros: bool = False) -> Scheme:
    return Scheme(weights="int4", scope="group", group=group, zeros=zeros)


SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        "none": Scheme(),
        "fp8": _fp8("channel"),
        "fp8_tensor": _fp8("tensor"),
        "fp8_block": _fp8("block", BLOCK),
        "fp8_weights": Scheme(weights="fp8"),
        "int8": Scheme(weights="int8"),
        "int8_dynamic": Scheme(weights="int8", activations="dynamic"),
        "int4": _int4(128),
        "int4_g64": _int4(64),
        "int4_g32": _int4(32),
        "int4_zeros": _int4(128, zeros=True),
        "int4_zeros_g64": _int4(64, zeros=True),
        "int4_zeros_g32": _int4(32, zeros=True),
        "nvfp4": Scheme(weights="nvfp4", scope="group", group=16),
        "mxfp4": Scheme(weights="mxfp4", scope="group", group=32),
    }
)
"""The schemes that have names: what `--quantize` takes."""


def find_scheme(name: str, asked_by: str) -> Scheme:
    """The scheme called `name`; RecipeError, with the nearest name, where there is none."""
    if name not in SCHEMES:
        raise RecipeError(f"{asked_by} {name}: no such scheme; {nearest(name, SCHEMES)}")
    return SCHEMES[name]


def name_of(scheme: Scheme) -> str:
    """What `--quantize` calls a scheme, or its fields where it has no name."""
    fields: dict[str, Any] = scheme.model_dump(exclude_defaults=True)
    found = next((name for name, one in SCHEMES.items() if one == scheme), None)
    return found or ", ".join(f"{key} {value}" for key, value in fields.items())
