"""Timing the candidates for each matmul on the GPU, and keeping the fastest that is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from autodeploy.kernels import KernelTable
from autodeploy.tuning.choices import Choice, Choices
from autodeploy.tuning.matmul import Matmul
from autodeploy.tuning.operands import expected_result, random_operands
from autodeploy.tuning.timing import seconds_a_call

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""The numbers of rows that are measured. Past the last, arithmetic bounds the library's matmul: it is hard to beat."""

CACHE_BYTES = 256 * 2**20  # several times what any GPU's level-two cache holds
MOST_COPIES = 64
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
ALONE = 1.03
"""What a kernel that cannot be tuned must win by: the library's overlap no launch of the kernels around them."""


@dataclass(frozen=True)
class Candidate:
    """One way to compute a projection."""

    backend: str
    config: Any
    run: Callable[..., Tensor]

    @property
    def name(self) -> str:
        """What a report calls it."""
        return self.backend if self.config is None else f"{self.backend} {self.config}"


def candidates_of(matmul: Matmul, rows: int, table: KernelTable) -> list[Candidate]:
    """Every kernel on the GPU for a projection, in each of its configurations.

    The reference of a quantized one is none where there is another: it decodes the whole weight first.
    """
    kernels = table.candidates(matmul.op, "cuda", matmul.torch_dtype)
    storage = (matmul.storage,) if matmul.storage.format else ()
    found = []
    for kernel in kernels:
        if kernel.tunable is None:
            if not storage or len(kernels) == 1:
                found.append(Candidate(kernel.backend, None, kernel.run))
            continue
        for config in kernel.tunable.configs(rows, matmul.n, matmul.k, matmul.torch_dtype, *storage):
            found.append(Candidate(kernel.backend, config, kernel.tunable.bind(config)))
    return found


def tune_matmuls(
    matmuls: Iterable[Matmul], table: KernelTable, observe: Callable[[Matmul], None] = lambda _: None
) -> Choices:
    """Measure on the current GPU which kernel of `table` is fastest for each matmul and number of rows."""
    entries = {}
    for matmul in matmuls:
        observe(matmul)
        entries[matmul] = tuple(_tune(matmul, rows, table) for rows in ROWS)
    return Choices(entries)


def _tune(matmul: Matmul, rows: int, table: KernelTable) -> Choice:
    copies = min(max(2, -(-CACHE_BYTES // matmul.weight_bytes)), MOST_COPIES)
    operands = random_operands(matmul, rows, copies)
    expected = expected_result(matmul, operands[0])
    timed = []
    for one in candidates_of(matmul, rows, table):
        if not _error(one.run(*operands[0]), expected) <= TOLERANCE[matmul.torch_dtype]:
            continue
        calls = [lambda given=given, run=one.run: run(*given) for given in operands]
        timed.append((seconds_a_call(calls), one))
    timed.sort(key=lambda pair: pair[0] * (ALONE if pair[1].config is None else 1.0))
    seconds, best = timed[0]
    config = None if best.config is None else asdict(best.config)
    if len(timed) == 1:
        return Choice(rows, best.backend, config, seconds)
    return Choice(rows, best.backend, config, seconds, timed[1][1].name, timed[1][0])


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())
