"""Running projections and attention by what was chosen for their number of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from autodeploy.kernels import KernelTable
from autodeploy.kernels.attention import Attention
from autodeploy.tuning.attention import op_of
from autodeploy.tuning.choices import Choice, Choices
from autodeploy.tuning.matmul import Matmul

Projection = Callable[..., Tensor]


def tuned_linear(matmul: Matmul, choices: Choices, table: KernelTable, otherwise: Projection) -> Projection:
    """The operator of `matmul` by the choices for it; `otherwise` for more rows than were measured.

    The number of rows is known on the host, so that a captured step holds the kernel chosen for it.
    """
    runs = [(choice.rows, run_of(choice, matmul.op, table)) for choice in choices.entries.get(matmul, ())]
    if not runs:
        return otherwise

    def projection(x: Tensor, *operands: Any) -> Tensor:
        rows = x.shape[:-1].numel()
        for most, run in runs:
            if rows <= most:
                return run(x, *operands)
        return otherwise(x, *operands)

    return projection


def tuned_attention(
    kinds: tuple[Attention, Attention], choices: Choices, table: KernelTable, otherwise: Projection
) -> Projection:
    """Attention by the choices for it in decode steps and in steps with prompts, its `kinds`; `otherwise` as above.

    Which kind a step is of follows from shapes: only one with prompts has more rows than requests.
    """
    decode, prompts = (
        [(choice.rows, run_of(choice, op_of(kind), table)) for choice in choices.entries.get(kind, ())]
        for kind in kinds
    )
    if not decode and not prompts:
        return otherwise
    lengths = [argument.name for argument in op_of(kinds[0])._schema.arguments].index("context_len")

    def attention(q: Tensor, *operands: Any) -> Tensor:
        rows = q.shape[0]
        for most, run in prompts if rows > operands[lengths - 1].shape[0] else decode:
            if rows <= most:
                return run(q, *operands)
        return otherwise(q, *operands)

    return attention


def run_of(choice: Choice, op: torch._ops.OpOverload, table: KernelTable) -> Projection:
    """The kernel of a choice; the reference where its backend is not at hand."""
    kernel = table.find(op, choice.backend)
    if kernel is not None and kernel.tunable is not None and choice.config is not None:
        run: Projection = kernel.tunable.bind(kernel.tunable.config_type(**choice.config))
        return run
    if kernel is None:
        return op
    plain: Projection = kernel.run
    return plain
