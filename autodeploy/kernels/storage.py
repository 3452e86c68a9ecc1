"""How the weight of a quantized projection is stored, as far as its kernels care."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Storage:
    """The format of a weight, and the layouts of what scales it; a plain weight has no format.

    `scale` and `zero` are names of dtypes, the latter empty where there are no zero points. The scale is
    `[scale_rows, groups]`. `x_groups` is how many scales a row of quantized activations has: 0 where one is for all
    rows, and -1 where activations are as they were.
    """

    format: str = ""
    scale: str = ""
    scale_rows: int = 0
    groups: int = 0
    zero: str = ""
    has_global_scale: bool = False
    x_groups: int = -1

    @property
    def quantizes_activations(self) -> bool:
        """Whether both sides are quantized."""
        return self.x_groups >= 0

    def __str__(self) -> str:
        if not self.format:
            return ""
        zero = f", zeros {self.zero}" if self.zero else ""
        rows = f", {self.x_groups or 'one'} for a row of x" if self.quantizes_activations else ""
        return f" of {self.format}, scales [{self.scale_rows}, {self.groups}] {self.scale}{zero}{rows}"


PLAIN = Storage()
"""A weight that is stored as it is multiplied."""
