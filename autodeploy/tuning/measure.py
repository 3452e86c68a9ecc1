"""Candidates: which there are, which are right, and which is the fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels import KernelTable
from autodeploy.kernels.table import Kernel
from autodeploy.tuning.choices import Choice, Way
from autodeploy.tuning.operands import Operands

CACHE_BYTES = 256 * 2**20  # several times what any GPU's level-two cache holds
MOST_COPIES = 64
NORM_WIDTH = 4096
CLOSE, MOST_CLOSE = 1.3, 4
"""What takes at most so many times as long as the fastest, and so many of those, may be the faster beside others."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}


@dataclass(frozen=True)
class Candidate:
    """One way to compute an operator; `run_over` as a step does, whose last operand nothing reads again."""

    backend: str
    config: Any
    run: Callable[..., Tensor]
    run_over: Callable[..., Tensor]

    @property
    def name(self) -> str:
        """What a report calls it."""
        return self.backend if self.config is None else f"{self.backend} {self.config}"


def candidates(kernels: Sequence[Kernel], needs_reference: bool, *shape: Any) -> list[Candidate]:
    """Every kernel in each of its configurations for a shape; what has none runs as it does.

    Without `needs_reference`, one that has none is left out where there is another.
    """
    found = []
    for kernel in kernels:
        if kernel.tunable is not None:
            runs = [(config, kernel.tunable.bind(config)) for config in kernel.tunable.configs(*shape)]
            found += [Candidate(kernel.backend, config, run, run) for config, run in runs]
        elif needs_reference or len(kernels) == 1:
            found.append(Candidate(kernel.backend, None, kernel.run, kernel.run_over or kernel.run))
    return found


def copies_of(num_bytes: int) -> int:
    """How many operands of a size leave nothing of the first in the cache when the last was read."""
    return min(max(2, -(-CACHE_BYTES // num_bytes)), MOST_COPIES)


def norm_before(rows: int, dtype: torch.dtype, table: KernelTable) -> Callable[[], Tensor]:
    """What an operator follows in a step, so that a kernel gains by starting early, and by letting others start."""
    norm = table.candidates(ops.rms_norm.overload, "cuda", dtype)[0]
    x = torch.randn(rows, NORM_WIDTH, dtype=dtype, device="cuda")
    return lambda: norm.run(x, None, 1e-6)


def correct(
    found: Sequence[Candidate], operands: Operands, expected: Callable[[], Tensor], dtype: torch.dtype
) -> list[Candidate]:
    """The candidates that give what is expected. Their kernels are compiled side by side."""
    device = torch.device("cuda", torch.cuda.current_device())

    @torch.inference_mode()
    def run(one: Candidate) -> Tensor:
        with torch.cuda.device(device):
            torch.zeros(1, device=device)  # a thread has no CUDA context before its first launch by the runtime
            return one.run(*operands)

    with ThreadPoolExecutor() as pool:
        results = list(pool.map(run, found))
    wanted = expected()
    return [one for one, out in zip(found, results, strict=True) if _error(out, wanted) <= TOLERANCE[dtype]]


def fastest(rows: int, timed: Iterable[tuple[float, Candidate]], floor_seconds: float) -> Choice:
    """The choice among candidates and their seconds."""
    (seconds, best), *others = sorted(timed, key=lambda pair: pair[0])
    second, runner_up = (others[0][0], others[0][1].name) if others else (0.0, "")
    close = [_way(time, one) for time, one in others[:MOST_CLOSE] if time <= CLOSE * seconds]
    way = _way(seconds, best)
    return Choice(rows, way.backend, way.config, seconds, runner_up, second, floor_seconds, tuple(close))


def _way(seconds: float, one: Candidate) -> Way:
    return Way(one.backend, None if one.config is None else asdict(one.config), seconds)


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())
