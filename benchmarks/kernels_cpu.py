"""How close the native CPU kernels come to the memory: `python benchmarks/kernels_cpu.py`.

Every figure stands beside the read ceiling measured around it, since shared machines drift, and each is the best of
interleaved repeats. The matrices are those of SmolLM2-135M, all of them, so that no cache holds them.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from autodeploy import ops
from autodeploy.kernels import native

LAYERS = 30
LAYER = [(960, 576), (576, 576), (3072, 576), (576, 1536)]
HEAD = (49152, 576)
DTYPES = (torch.float32, torch.bfloat16)
REPEATS = 5

Run = Callable[[], object]


def seconds(runs: dict[str, Run], repeats: int = REPEATS) -> dict[str, float]:
    """The best time of each, taken in turns."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - begin)
    return best


def linear_table() -> Table:
    table = Table("dtype", "rows", "native GB/s", "of ceiling", "torch GB/s", "native/torch", title="linear")
    for dtype in DTYPES:
        weights = [torch.randn(shape).to(dtype) for shape in [*LAYER * LAYERS, HEAD]]
        size = sum(weight.nbytes for weight in weights)
        unread = torch.randn(size // 4)
        for rows in (1, 2, 4, 8, 16, 64):
            inputs = {width: torch.randn(rows, width).to(dtype) for width in (576, 1536)}

            def project(
                run: Callable[[Tensor, Tensor], Tensor],
                weights: list[Tensor] = weights,
                inputs: dict[int, Tensor] = inputs,
            ) -> None:
                for weight in weights:
                    run(inputs[weight.shape[1]], weight)

            best = seconds(
                {
                    "ceiling": unread.sum,
                    "native": lambda project=project: project(torch.ops.autodeploy_native.linear.default),  # type: ignore[misc]
                    "torch": lambda project=project: project(torch.nn.functional.linear),  # type: ignore[misc]
                }
            )
            table.add_row(
                str(dtype).removeprefix("torch."),
                str(rows),
                f"{size / best['native'] / 1e9:.1f}",
                f"{best['ceiling'] / best['native']:.2f}",
                f"{size / best['torch'] / 1e9:.1f}",
                f"{best['torch'] / best['native']:.2f}",
            )
    return table


def attention_step(requests: int, new: int, context: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """`requests` of `new` tokens each on contexts of `context`: 9 heads, 3 key-value heads of 64, pages of 16."""
    page_size, pages = 16, -(-context // 16)
    table = torch.randperm(requests * pages).reshape(requests, pages).int()
    positions = torch.arange(context - new, context)
    slots = (table[:, positions // page_size].long() * page_size + positions % page_size).flatten()
    cache = [torch.randn(requests * pages, 3, page_size, 64).to(dtype) for _ in range(2)]
    rows = [torch.randn(requests * new, heads, 64).to(dtype) for heads in (9, 3, 3)]
    starts = torch.arange(requests + 1, dtype=torch.int32) * new
    return (*rows, *cache, starts, torch.full((requests,), context, dtype=torch.int32), table, slots)


def attention_table() -> Table:
    table = Table(
        "dtype", "requests x new @ context", "native µs", "torch µs", "cache GB/s", "GFLOP/s", title="attention"
    )
    for dtype in DTYPES:
        for requests, new, context in (
            (1, 1, 128),
            (1, 1, 4096),
            (8, 1, 512),
            (64, 1, 512),
            (1, 128, 128),
            (1, 1024, 1024),
        ):
            step = attention_step(requests, new, context, dtype)
            best = seconds(
                {
                    "native": lambda step=step: torch.ops.autodeploy_native.paged_attention(*step, 0.125),  # type: ignore[misc]
                    "torch": lambda step=step: ops.paged_attention.reference(*step, 0.125),  # type: ignore[misc]
                }
            )
            read = requests * context * 2 * 3 * 64 * dtype.itemsize
            work = requests * new * (2 * context - new + 1) / 2 * 9 * 64 * 4
            table.add_row(
                str(dtype).removeprefix("torch."),
                f"{requests} x {new} @ {context}",
                f"{best['native'] * 1e6:.0f}",
                f"{best['torch'] * 1e6:.0f}",
                f"{read / best['native'] / 1e9:.1f}",
                f"{work / best['native'] / 1e9:.0f}",
            )
    return table


def overhead_table() -> Table:
    """One decode row of SmolLM2, where the call costs more than the work."""
    call = torch.ops.autodeploy_native
    x, weight, wide = torch.randn(1, 1, 576), torch.randn(576), torch.randn(1, 1, 3072)
    q, angles = torch.randn(1, 1, 9, 64), torch.randn(1, 1, 64)
    runs: dict[str, tuple[Run, Run]] = {
        "rms_norm": (lambda: call.rms_norm.default(x, weight, 1e-5), lambda: ops.rms_norm.reference(x, weight, 1e-5)),
        "rope": (lambda: call.rope.default(q, angles, angles), lambda: ops.rope.reference(q, angles, angles)),
        "gated_activation": (
            lambda: call.gated_activation.default(wide[..., :1536], wide[..., 1536:], "silu"),
            lambda: ops.gated_activation.reference(wide[..., :1536], wide[..., 1536:], "silu"),
        ),
    }
    table = Table("op", "native µs", "torch µs", title="one row, float32")
    for name, (ours, theirs) in runs.items():
        best = seconds({"native": lambda run=ours: repeat(run), "torch": lambda run=theirs: repeat(run)})  # type: ignore[misc]
        table.add_row(name, f"{best['native'] * 1e3:.1f}", f"{best['torch'] * 1e3:.1f}")
    return table


def repeat(run: Run, times: int = 1000) -> None:
    for _ in range(times):
        run()


def main() -> None:
    console = Console(width=120)
    if reason := native.why_unavailable():
        console.print(reason)
        return
    with torch.inference_mode():
        for measure in (linear_table, attention_table, overhead_table):
            console.print(measure())


if __name__ == "__main__":
    main()
