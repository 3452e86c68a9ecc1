"""Timing the candidates for attention on the GPU, and keeping the fastest that is right."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import partial
from math import prod

from autodeploy.hardware import Gpu, choose_gpu
from autodeploy.kernels import KernelTable
from autodeploy.kernels.attention import Attention
from autodeploy.tuning.attention import op_of
from autodeploy.tuning.attention_operands import expected_step, random_step
from autodeploy.tuning.choices import Choice, Choices, Site
from autodeploy.tuning.floor import attention_floor
from autodeploy.tuning.measure import Candidate, candidates, copies_of, correct, fastest, norm_before
from autodeploy.tuning.timing import seconds_a_call

DECODE_ROWS = (1, 8, 64, 256)
"""The numbers of decode rows that are measured."""
PROMPT_ROWS = (64, 256, 1024, 4096)
"""The lengths of prompts that are measured, each alone and whole."""
CONTEXTS = (256, 1024)
"""How many keys the rows of a decode step have. The kernel is not told, and a request's context grows: what is
compared is the geometric mean of the times."""
MOST_CACHE = 1 << 29
"""Past so many bytes of keys and values a context is left out."""


def tune_attentions(
    attentions: Iterable[Attention],
    table: KernelTable,
    observe: Callable[[Attention], None] = lambda _: None,
    max_rows: int = PROMPT_ROWS[-1],
) -> Choices:
    """Measure on the current GPU which kernel of `table` is fastest for each attention and each of
    `attention_rows_of` it."""
    gpu = choose_gpu("auto").gpu
    entries: dict[Site, tuple[Choice, ...]] = {}
    for attention in attentions:
        observe(attention)
        measured = attention_rows_of(attention, max_rows)
        entries[attention] = tuple(_tune(attention, rows, table, gpu) for rows in measured)
    return Choices(entries)


def leaves_choice(attention: Attention, table: KernelTable) -> bool:
    """Whether some kernel on the GPU can compute it in more than one way."""
    return any(one.config is not None for one in candidates_of(attention, 1, table))


def attention_rows_of(attention: Attention, max_rows: int) -> tuple[int, ...]:
    """The numbers of rows that are measured for attention, in steps of at most `max_rows`."""
    rows = PROMPT_ROWS if attention.prompt else DECODE_ROWS
    return rows[: bisect_left(rows, max_rows) + 1]


def contexts_of(attention: Attention, rows: int) -> tuple[int, ...]:
    """The contexts that so many rows are measured with."""
    if attention.prompt:
        return (rows,)
    fitting = (context for context in CONTEXTS if rows * context * attention.key_bytes <= MOST_CACHE)
    return tuple(fitting) or CONTEXTS[:1]


def candidates_of(attention: Attention, rows: int, table: KernelTable) -> list[Candidate]:
    """Every kernel on the GPU for attention, in each of its configurations."""
    kernels = table.candidates(op_of(attention), "cuda", attention.torch_dtype)
    return candidates(kernels, False, rows, attention)


def _tune(attention: Attention, rows: int, table: KernelTable, gpu: Gpu) -> Choice:
    contexts = contexts_of(attention, rows)
    keys = rows if attention.prompt else 1
    seconds: dict[Candidate, list[float]] = {}
    right = candidates_of(attention, rows, table)
    between = norm_before(rows, attention.torch_dtype, table)
    for context in contexts:
        size = attention.key_bytes * context * (rows // keys)
        steps = random_step(attention, rows, context, copies_of(size))
        alone = seconds_a_call([between] * len(steps))
        right = correct(right, steps[0], partial(expected_step, attention, steps[0]), attention.torch_dtype)
        for one in right:
            calls = [lambda given=given, run=one.run: (between(), run(*given)) for given in steps]
            seconds.setdefault(one, []).append(max(seconds_a_call(calls) - alone, 1e-9))
    floor = _mean([attention_floor(attention, rows, context, gpu) for context in contexts])
    return fastest(rows, ((_mean(seconds[one]), one) for one in right), floor)


def _mean(numbers: list[float]) -> float:
    """The geometric mean, in which neither a short nor a long context outweighs the other."""
    return float(prod(numbers) ** (1 / len(numbers)))
