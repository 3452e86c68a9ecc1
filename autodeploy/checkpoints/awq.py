"""Checkpoints of AWQ (Lin et al., 2023) in the layout that AutoAWQ calls gemm.

| tensor | of `N` outputs, `K` inputs in `G` groups |
|---|---|
| `qweight` int32 `[K, N / 8]` | the codes of eight outputs in a word, in the order 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits |
| `qzeros` int32 `[G, N / 8]` | zero points, in the same order |
| `scales` `[G, N]` | |

A weight is `(code - zero) * scale`. What AWQ multiplies the inputs by is folded into the layer before.
"""  # noqa: E501 (rows of a table)

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import AliasChoices, Field

from autodeploy.checkpoints.form import WHERE, Fields, Settings, parse
from autodeploy.checkpoints.kinds import grouped_int4, int4
from autodeploy.checkpoints.module import Module
from autodeploy.checkpoints.words import Codes, Pairs
from autodeploy.errors import UnsupportedError
from autodeploy.quantization.scheme import Scheme
from autodeploy.weights.expression import Expression
from autodeploy.weights.layout import transpose

BITS = 4
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


class Awq(Settings):
    """What `quantization_config` says."""

    bits: int = Field(validation_alias=AliasChoices("bits", "w_bit"))
    group_size: int = Field(validation_alias=AliasChoices("group_size", "q_group_size"))
    version: str = "gemm"
    name: Literal["awq"] = "awq"
    own: frozenset[str] = frozenset({"qweight", "qzeros", "scales"})

    @classmethod
    def of(cls, fields: Fields) -> Awq:
        """Read a config; UnsupportedError for another layout or other bits."""
        found = parse(cls, fields)
        if found.version.lower() != "gemm":
            raise UnsupportedError(f"{WHERE}: version {found.version!r}: we read the layout gemm")
        if found.bits != BITS:
            raise UnsupportedError(f"{WHERE}: {found.bits} bits: we read {BITS}")
        return found

    def describe(self) -> str:
        """The bits and the groups."""
        groups = f"groups of {self.group_size}" if self.group_size > 0 else "one group a row"
        return f"{self.bits} bits, {groups}, zero points"

    @property
    def scheme(self) -> Scheme | None:
        """What most projections get, for estimates; None where settings do not tell."""
        return grouped_int4(self.group_size, zeros=True)

    def unpack(self, module: Module) -> Mapping[str, Expression]:
        """The weight of a projection that is quantized."""
        if "qweight" not in module.names:
            return {}
        codes, zeros = (transpose(Codes(module.stored(name), BITS, 1, ORDER)) for name in ("qweight", "qzeros"))
        scales = transpose(module.stored("scales"))
        return {"weight": int4(module, Pairs(codes), "scales", self.group_size, scales=scales, zero=zeros)}
