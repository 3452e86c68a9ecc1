"""Which projection gets which scheme: rules of a recipe, of which the first that matches decides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator

from autodeploy.errors import nearest
from autodeploy.quantization.scheme import SCHEMES, Scheme, name_of

Kind = Literal["linear", "head"]
"""What a projection is: the head makes the logits."""

_LAYERS = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
_EVERYTHING = "*"
LEFT = "the head is left as it is unless --quantize-head or a rule names a scheme"


@dataclass(frozen=True)
class Projection:
    """What rules ask about a projection: the path of its module, its weight's shape `[N, K]`, and what it is."""

    name: str
    shape: tuple[int, int]
    kind: Kind = "linear"

    @property
    def layer(self) -> int | None:
        """The first number in its path, such as 3 in `model.layers.3.mlp.up_proj`."""
        return next((int(part) for part in self.name.split(".") if part.isdigit()), None)


class Rule(BaseModel):
    """Gives `scheme` to the projections whose path matches `match`, in `layers`, and of a `kind`.

    `match` is a glob; `layers` are numbers and ranges that include their ends, as in `0,4-27`. `scheme` is a name or
    the fields of a `Scheme`. The head is matched by a rule that says `kind: head`, or by a `match` other than `*`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: str = _EVERYTHING
    layers: str | None = None
    kind: Kind | None = None
    scheme: str | Scheme

    @field_validator("layers", mode="before")
    @classmethod
    def _are_ranges(cls, value: object) -> object:
        text = str(value) if isinstance(value, int) else value  # YAML reads a single layer as a number
        if isinstance(text, str) and not _LAYERS.fullmatch(text):
            raise ValueError("layers are numbers and ranges, as in 0,4-27")
        return text

    @field_validator("scheme")
    @classmethod
    def _is_known(cls, value: str | Scheme) -> str | Scheme:
        if isinstance(value, str) and value not in SCHEMES:
            raise ValueError(f"there is no scheme {value!r}; {nearest(value, SCHEMES)}")
        return value

    def matches(self, projection: Projection) -> bool:
        """Whether it says something of `projection`."""
        if self.kind not in (None, projection.kind) or not fnmatchcase(projection.name, self.match):
            return False
        if projection.kind == "head" and self.kind is None and self.match == _EVERYTHING:
            return False
        return self.layers is None or projection.layer in _numbers(self.layers)

    @property
    def resolved(self) -> Scheme:
        """Its scheme, looked up where it is a name."""
        return SCHEMES[self.scheme] if isinstance(self.scheme, str) else self.scheme

    def __str__(self) -> str:
        where = [self.match, *([f"layers {self.layers}"] if self.layers else []), *([self.kind] if self.kind else [])]
        return f"rule {', '.join(where)}: {name_of(self.resolved)}"


def _numbers(layers: str) -> set[int]:
    ranges = (part.partition("-") for part in layers.split(","))
    return {number for low, _, high in ranges for number in range(int(low), int(high or low) + 1)}


@dataclass(frozen=True)
class Precision:
    """What a projection gets, and why."""

    scheme: Scheme
    reason: str


def decide(projection: Projection, rules: Sequence[Rule], default: str, head: str = "none") -> Precision:
    """The precision of `projection` by the first of `rules` that matches; `default` names the scheme of the rest.

    `head` names that of a head that no rule matches. A projection whose shape its scheme does not allow is left as it
    is.
    """
    rule = next((one for one in rules if one.matches(projection)), None)
    if rule is not None:
        wanted = Precision(rule.resolved, str(rule))
    elif projection.kind == "head":
        wanted = Precision(SCHEMES[head], LEFT if head == "none" else f"head {head}")
    else:
        wanted = Precision(SCHEMES[default], f"scheme {default}")
    reason = wanted.scheme.declines(projection.shape)
    if reason is None:
        return wanted
    return Precision(SCHEMES["none"], f"{wanted.reason}, but {reason}")
