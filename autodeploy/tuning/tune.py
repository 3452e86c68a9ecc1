"""Timing the candidates for each matmul on the GPU, and keeping the fastest that is right."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable

from autodeploy.hardware import Gpu, choose_gpu
from autodeploy.kernels import KernelTable
from autodeploy.tuning.choices import Choice, Choices, Site
from autodeploy.tuning.floor import matmul_floor
from autodeploy.tuning.matmul import Matmul
from autodeploy.tuning.measure import Candidate, candidates, copies_of, correct, fastest, norm_before
from autodeploy.tuning.operands import expected_result, random_operands
from autodeploy.tuning.timing import seconds_a_call

ROWS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192)
"""The numbers of rows that are measured."""
MOST_RESULTS = 1 << 28
"""Past so many numbers of a result nothing is measured: a head sees the last tokens of requests alone."""


def candidates_of(matmul: Matmul, rows: int, table: KernelTable) -> list[Candidate]:
    """Every kernel on the GPU for a projection, in each of its configurations.

    The reference of a quantized one is none where there is another: it decodes the whole weight first.
    """
    kernels = table.candidates(matmul.op, "cuda", matmul.torch_dtype)
    storage = (matmul.storage,) if matmul.storage.format else ()
    return candidates(kernels, not storage, rows, matmul.n, matmul.k, matmul.torch_dtype, *storage)


def tune_matmuls(
    matmuls: Iterable[Matmul],
    table: KernelTable,
    observe: Callable[[Matmul], None] = lambda _: None,
    max_rows: int = ROWS[-1],
) -> Choices:
    """Measure on the current GPU which kernel of `table` is fastest for each matmul and each of `rows_of` it."""
    gpu = choose_gpu("auto").gpu
    entries: dict[Site, tuple[Choice, ...]] = {}
    for matmul in matmuls:
        observe(matmul)
        entries[matmul] = tuple(_tune(matmul, rows, table, gpu) for rows in rows_of(matmul, max_rows))
    return Choices(entries)


def rows_of(matmul: Matmul, max_rows: int) -> tuple[int, ...]:
    """The numbers of rows that are measured for a matmul, in steps of at most `max_rows`."""
    needed = ROWS[: bisect_left(ROWS, max_rows) + 1]
    return tuple(rows for rows in needed if rows * matmul.n <= MOST_RESULTS)


def _tune(matmul: Matmul, rows: int, table: KernelTable, gpu: Gpu) -> Choice:
    operands = random_operands(matmul, rows, copies_of(matmul.weight_bytes))
    between = norm_before(rows, matmul.torch_dtype, table)
    alone = min(seconds_a_call([between] * len(operands)) for _ in range(2))  # what else there is can only add to it
    timed = []
    found = candidates_of(matmul, rows, table)
    for one in correct(found, operands[0], lambda: expected_result(matmul, operands[0]), matmul.torch_dtype):
        calls = [lambda given=given, run=one.run_over: (between(), run(*given)) for given in operands]
        timed.append((max(seconds_a_call(calls) - alone, 0.0), one))
    return fastest(rows, timed, matmul_floor(matmul, rows, gpu))
