"""Weights that are quantized as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from autodeploy.quantization.formats import BLOCK, FORMATS, PACKED, blocks
from autodeploy.quantization.rounding import Parts, round_weight
from autodeploy.quantization.scheme import Scheme
from autodeploy.weights.expression import Box, Expression, Unary
from autodeploy.weights.source import TensorSource

Part = Literal["values", "scale", "zero", "global_scale"]

PIECE_BYTES = 256 << 20
"""Rows are rounded in pieces of this size in float32, so that no copy of a whole weight in float32 is made."""


@dataclass(frozen=True)
class Quantized(Unary):
    """One part of `x [N, K]` rounded to the nearest numbers that `scheme` can store.

    All parts of one x are computed when any is read; `PartReader` keeps them for the others.
    """

    scheme: Scheme
    part: Part

    @classmethod
    def parts(cls, x: Expression, scheme: Scheme) -> dict[Part, Quantized]:
        """Every part that the scheme's format has, the values first."""
        held: list[Part] = ["values", "scale"]
        held += ["zero"] if scheme.zeros else []
        held += ["global_scale"] if scheme.weights == "nvfp4" else []
        return {part: cls(x, scheme, part) for part in held}

    @property
    @override
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        rows, columns = self.x.shape
        if self.part == "global_scale":
            return ()
        if self.part == "values":
            return rows, columns // 2 if self.scheme.weights in PACKED else columns
        scopes = {"tensor": (1, 1), "channel": (rows, 1), "block": blocks((rows, columns))}
        return scopes.get(self.scheme.scope) or (rows, columns // self.scheme.group)

    @property
    @override
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        if self.part == "values":
            return FORMATS[self.scheme.weights]
        if self.part == "zero" or (self.part == "scale" and self.scheme.weights == "mxfp4"):
            return torch.uint8
        if self.part == "scale" and self.scheme.weights == "nvfp4":
            return torch.float8_e4m3fn
        return self.x.dtype if self.part == "scale" and self.scheme.scope == "group" else torch.float32

    @override
    def write(self, source: TensorSource, box: Box, out: Tensor) -> None:
        low, high = self._rows(box)
        found: Tensor = getattr(self.compute(source, (low, high)), self.part)
        if box:
            first = low // self._rows_each
            found = found[box[0][0] - first : box[0][1] - first, box[1][0] : box[1][1]]
        out.copy_(found)

    def compute(self, source: TensorSource, rows: tuple[int, int] | None = None) -> Parts:
        """All parts of some rows, whole blocks of them, or of all rows; on the CPU, whatever computes them."""
        low, high = rows or (0, self.x.shape[0])
        one_for_all = self.scheme.scope == "tensor" or self.scheme.weights == "nvfp4"
        amax = self._largest(source) if one_for_all else None
        rounded = [round_weight(piece, self.scheme, amax) for piece in self._pieces(source, low, high)]
        first = rounded[0]
        return Parts(
            torch.cat([one.values.cpu() for one in rounded]),
            first.scale.cpu() if self.scheme.scope == "tensor" else torch.cat([one.scale.cpu() for one in rounded]),
            None if first.zero is None else torch.cat([one.zero.cpu() for one in rounded if one.zero is not None]),
            None if first.global_scale is None else first.global_scale.cpu(),
        )

    @property
    def _rows_each(self) -> int:
        """How many rows of x one row of this part is of."""
        return BLOCK if self.part == "scale" and self.scheme.scope == "block" else 1

    def _rows(self, box: Box) -> tuple[int, int]:
        """The rows of x to compute for a part's box, in whole blocks; all where one number is for all of them."""
        count = self.x.shape[0]
        if not box or self.shape[0] == 1:
            return 0, count
        low, high = (bound * self._rows_each for bound in box[0])
        return low // BLOCK * BLOCK, min(-(-high // BLOCK) * BLOCK, count)

    def _largest(self, source: TensorSource) -> Tensor:
        return torch.stack([piece.abs().amax().float() for piece in self._pieces(source, 0, self.x.shape[0])]).amax()

    def _pieces(self, source: TensorSource, low: int, high: int) -> Iterator[Tensor]:
        """Rows `low` to `high` of x, some blocks of 128 at a time, where rounding is fast."""
        columns = self.x.shape[1]
        step = max(PIECE_BYTES // (4 * columns * BLOCK), 1) * BLOCK
        device = "cuda" if torch.cuda.is_available() else "cpu"
        held = self.x.read(source, ((low, high), (0, columns)))
        for start in range(0, high - low, step):
            yield held[start : start + step].to(device)


class PartReader:
    """Reads one expression after another; parts of one quantized weight that follow each other are computed once."""

    def __init__(self, source: TensorSource) -> None:
        self._source = source
        self._of: tuple[Expression, Scheme] | None = None
        self._parts: Parts | None = None

    def read(self, expression: Expression) -> Tensor:
        """The tensor of `expression`, on the CPU. It may be a view of mapped memory: do not write to it."""
        if not isinstance(expression, Quantized):
            self._of = self._parts = None
            return expression.read(self._source)
        if self._parts is None or self._of != (expression.x, expression.scheme):
            self._of, self._parts = (expression.x, expression.scheme), expression.compute(self._source)
        found: Tensor = getattr(self._parts, expression.part)
        return found
