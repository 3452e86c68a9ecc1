"""Timing the candidates for each matmul on the GPU, and keeping the fastest that is right."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels import KernelTable
from autodeploy.tuning.choices import Choice, Choices
from autodeploy.tuning.matmul import Matmul
from autodeploy.tuning.operands import Operands, expected_result, random_operands
from autodeploy.tuning.timing import seconds_a_call

ROWS = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192)
"""The numbers of rows that are measured."""
MOST_RESULTS = 1 << 28
"""Past so many numbers of a result nothing is measured: a head sees the last tokens of requests alone."""

CACHE_BYTES = 256 * 2**20  # several times what any GPU's level-two cache holds
MOST_COPIES = 64
NORM_WIDTH = 4096
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}


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
    matmuls: Iterable[Matmul],
    table: KernelTable,
    observe: Callable[[Matmul], None] = lambda _: None,
    max_rows: int = ROWS[-1],
) -> Choices:
    """Measure on the current GPU which kernel of `table` is fastest for each matmul and each of `rows_of` it."""
    entries = {}
    for matmul in matmuls:
        observe(matmul)
        entries[matmul] = tuple(_tune(matmul, rows, table) for rows in rows_of(matmul, max_rows))
    return Choices(entries)


def rows_of(matmul: Matmul, max_rows: int) -> tuple[int, ...]:
    """The numbers of rows that are measured for a matmul, in steps of at most `max_rows`."""
    needed = ROWS[: bisect_left(ROWS, max_rows) + 1]
    return tuple(rows for rows in needed if rows * matmul.n <= MOST_RESULTS)


def _tune(matmul: Matmul, rows: int, table: KernelTable) -> Choice:
    copies = min(max(2, -(-CACHE_BYTES // matmul.weight_bytes)), MOST_COPIES)
    operands = random_operands(matmul, rows, copies)
    between = _norm(matmul, rows, table)
    alone = seconds_a_call([between] * copies)
    timed = []
    for one in _correct(matmul, operands[0], candidates_of(matmul, rows, table)):
        calls = [lambda given=given, run=one.run: (between(), run(*given)) for given in operands]
        timed.append((max(seconds_a_call(calls) - alone, 0.0), one))
    timed.sort(key=lambda pair: pair[0])
    seconds, best = timed[0]
    config = None if best.config is None else asdict(best.config)
    if len(timed) == 1:
        return Choice(rows, best.backend, config, seconds)
    return Choice(rows, best.backend, config, seconds, timed[1][1].name, timed[1][0])


def _norm(matmul: Matmul, rows: int, table: KernelTable) -> Callable[[], Tensor]:
    """What a projection follows in a step, so that a kernel gains by starting early, and by letting others start."""
    norm = table.candidates(ops.rms_norm.overload, "cuda", matmul.torch_dtype)[0]
    x = torch.randn(rows, NORM_WIDTH, dtype=matmul.torch_dtype, device="cuda")
    return lambda: norm.run(x, None, 1e-6)


def _correct(matmul: Matmul, operands: Operands, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that give what the reference does. Their kernels are compiled side by side."""
    device = torch.device("cuda", torch.cuda.current_device())

    @torch.inference_mode()
    def run(one: Candidate) -> Tensor:
        with torch.cuda.device(device):
            torch.zeros(1, device=device)  # a thread has no CUDA context before its first launch by the runtime
            return one.run(*operands)

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(run, candidates))
    expected = expected_result(matmul, operands)
    pairs = zip(candidates, found, strict=True)
    return [one for one, result in pairs if _error(result, expected) <= TOLERANCE[matmul.torch_dtype]]


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())
