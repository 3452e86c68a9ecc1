"""Checkpoints of GPTQ (Frantar et al., 2022) as AutoGPTQ and GPTQModel lay them out.

| tensor | of `N` outputs, `K` inputs in `G` groups |
|---|---|
| `qweight` int32 `[K bits / 32, N]` | the codes of consecutive inputs in a word, the first lowest |
| `qzeros` int32 `[G, N bits / 32]` | zero points of consecutive outputs, less 1 unless `checkpoint_format` is gptq_v2 |
| `scales` `[G, N]` | |
| `g_idx` int32 `[K]` | the group of each input; with act-order (`desc_act`) neighbours are of different ones |

A weight of 4 bits is `(code - zero) * scale`; a symmetric one has zeros of 8, which are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from autodeploy.checkpoints.form import WHERE, Fields, Settings, parse
from autodeploy.checkpoints.kinds import grouped_int4, int4, int8, order_of
from autodeploy.checkpoints.module import Module
from autodeploy.checkpoints.words import WORD, Bytes, Centred, Codes, Columns, Pairs, Raised
from autodeploy.errors import UnsupportedError
from autodeploy.quantization.scheme import Scheme
from autodeploy.weights.expression import Constant, Expression
from autodeploy.weights.layout import Permute, Reshape, transpose

LAYOUTS = ("gptq", "gptq_v2")


class Gptq(Settings):
    """What `quantization_config` says."""

    bits: int
    group_size: int = -1
    sym: bool = True
    desc_act: bool = False
    checkpoint_format: str = "gptq"
    name: Literal["gptq"] = "gptq"
    own: frozenset[str] = frozenset({"qweight", "qzeros", "scales", "g_idx"})

    @classmethod
    def of(cls, fields: Fields) -> Gptq:
        """Read a config; UnsupportedError for another layout, and for bits that we have no operators for."""
        found = parse(cls, fields)
        if found.checkpoint_format not in LAYOUTS:
            raise UnsupportedError(
                f"{WHERE}: checkpoint_format {found.checkpoint_format!r}: we read {' and '.join(LAYOUTS)}"
            )
        if found.bits not in (4, 8) or (found.bits == 8 and not found.sym):
            zeros = "" if found.sym else " with zero points"
            raise UnsupportedError(f"{WHERE}: {found.bits} bits{zeros}: we read 4, and 8 without zero points")
        return found

    def describe(self) -> str:
        """The bits, the groups and their order."""
        groups = f"groups of {self.group_size}" if self.group_size > 0 else "one group a row"
        return (
            f"{self.bits} bits, {groups}{', act-order' if self.desc_act else ''}{'' if self.sym else ', zero points'}"
        )

    @property
    def scheme(self) -> Scheme | None:
        """What most projections get, for estimates; None where settings do not tell."""
        if self.bits == 4:
            return grouped_int4(self.group_size, zeros=not self.sym)
        return Scheme(weights="int8")

    def unpack(self, module: Module) -> Mapping[str, Expression]:
        """The weight of a projection that is quantized."""
        if "qweight" not in module.names:
            return {}
        packed = module.stored("qweight")
        columns = packed.shape[0] * WORD // self.bits
        order = order_of(module, "g_idx", columns, self.group_size if self.group_size > 0 else columns)
        values, scales = self._values(packed, order), transpose(module.stored("scales"))
        if self.bits == 8:
            return {"weight": replace(int8(module, values, "scales", self.group_size, scales=scales), order=order)}
        zero = None if self.sym else self._zeros(module)
        return {"weight": int4(module, values, "scales", self.group_size, scales=scales, zero=zero, order=order)}

    def _values(self, packed: Expression, order: Constant | None) -> Expression:
        """The codes by output; the bytes of words hold them in our order already."""
        rows, each = packed.shape[1], WORD // 8
        if order is None:
            apart = Permute(Reshape(Bytes(packed), (packed.shape[0], rows, each)), (1, 0, 2))
            codes: Expression = Reshape(apart, (rows, packed.shape[0] * each))
            return Centred(codes) if self.bits == 8 else codes
        ordered = Columns(transpose(Codes(packed, self.bits, 0)), order)
        return Centred(ordered) if self.bits == 8 else Pairs(ordered)

    def _zeros(self, module: Module) -> Expression:
        zeros = transpose(Codes(module.stored("qzeros"), self.bits, 1))
        return Raised(zeros, 1) if self.checkpoint_format == "gptq" else zeros
