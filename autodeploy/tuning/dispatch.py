"""Running a projection by what was chosen for its number of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from autodeploy.kernels import KernelTable
from autodeploy.tuning.choices import Choice, Choices
from autodeploy.tuning.matmul import Matmul

Projection = Callable[..., Tensor]


def tuned_linear(matmul: Matmul, choices: Choices, table: KernelTable, otherwise: Projection) -> Projection:
    """The operator of `matmul` by the choices for it; `otherwise` for more rows than were measured.

    The number of rows is known on the host, so that a captured step holds the kernel chosen for it.
    """
    runs = [(choice.rows, _run_of(choice, matmul, table)) for choice in choices.entries.get(matmul, ())]
    if not runs:
        return otherwise

    def projection(x: Tensor, *operands: Any) -> Tensor:
        rows = x.shape[:-1].numel()
        for most, run in runs:
            if rows <= most:
                return run(x, *operands)
        return otherwise(x, *operands)

    return projection


def _run_of(choice: Choice, matmul: Matmul, table: KernelTable) -> Projection:
    """The kernel of a choice; the reference where its backend is not at hand."""
    kernel = table.find(matmul.op, choice.backend)
    if kernel is not None and kernel.tunable is not None and choice.config is not None:
        run: Projection = kernel.tunable.bind(kernel.tunable.config_type(**choice.config))
        return run
    if kernel is None:
        return matmul.op
    plain: Projection = kernel.run
    return plain
