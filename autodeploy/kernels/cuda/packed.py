"""What the operators of packed weights pass to a kernel of one format."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Run = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, str | None], Tensor]
"""What takes x, the weight with its scales and zero points, the bias, and the name of an activation with a gate."""


def projection(run: Run) -> Callable[..., Tensor]:
    """`ops.packed_linear`, or with an activation's name as the last operand `ops.packed_gated_linear`."""

    def of_operands(
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        zero: Tensor | None,
        global_scale: Tensor | None,
        bias: Tensor | None,
        format: str,
        kind: str | None = None,
    ) -> Tensor:
        return run(x, weight, scale, zero, bias, kind)

    return of_operands
