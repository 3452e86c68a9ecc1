"""What to do about tuning here: remember, measure, or leave it to the machine that has the GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Graph

from autodeploy.kernels import KernelTable
from autodeploy.kernels.attention import Attention
from autodeploy.tuning.attention import attentions_of
from autodeploy.tuning.choices import Choices, Site, choices_from
from autodeploy.tuning.matmul import Matmul, matmuls_of
from autodeploy.tuning.settle import settle_in_layer
from autodeploy.tuning.store import Conditions, conditions, load_choices, save_choices
from autodeploy.tuning.tune import ROWS, rows_of, tune_matmuls
from autodeploy.tuning.tune_attention import attention_rows_of, leaves_choice, tune_attentions


@dataclass(frozen=True)
class Tuning:
    """The choices for a model, under which conditions they hold, and what the user should know of them."""

    choices: Choices = field(default_factory=Choices)
    conditions: Conditions | None = None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The choices and conditions as JSON data."""
        return {"conditions": dict(self.conditions or {}), "choices": self.choices.as_data()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tuning:
        """The choices and conditions from what `as_dict` gave."""
        return cls(choices_from(data), data["conditions"])


def sites_of(graph: Graph) -> tuple[Site, ...]:
    """What is tuned of a graph: its distinct projections and attention layers."""
    return (*matmuls_of(graph), *attentions_of(graph))


def tune(
    graph: Graph,
    table: KernelTable,
    device: torch.device,
    known: Tuning | None = None,
    observe: Callable[[Site], None] = lambda _: None,
    max_rows: int = 0,
) -> Tuning:
    """Choices for a graph on `device`: those of `known` and the user's cache, and measured ones for the others.

    What is known must reach `max_rows`, of which 0 means that whatever is known will do. What is measured goes to the
    user's cache. What `known` lacks is measured alone, and settled in the graph's layer where several are close.
    Nothing is measured for a CPU, whose kernels leave no choice, nor for a GPU that is not here.
    """
    if device.type == "cpu":
        return Tuning()
    if not torch.cuda.is_available():
        return Tuning(notes=("this machine has no GPU: kernels are chosen by a table until the program first loads",))
    here = conditions(device)
    brought = known.choices if known is not None and known.conditions == here else Choices()
    choices = load_choices(here) | brought
    sites = sites_of(graph)
    tunable = [site for site in sites if isinstance(site, Matmul) or leaves_choice(site, table)]
    missing = choices.missing(tunable, lambda one: _rows_of(one, max_rows) if max_rows else ())
    notes: tuple[str, ...] = ()
    if missing:
        started = time.perf_counter()
        measured = _measure(missing, table, observe, max_rows or ROWS[-1])
        save_choices(here, measured)
        choices = choices | measured
        notes = (f"tuned {_counted(missing)} in {time.perf_counter() - started:.0f} s",)
    if brought.missing(tunable):
        choices, told = settle_in_layer(graph, choices, table, here, observe)
        notes += told
    return Tuning(choices.only(sites), here, notes)


def _measure(sites: Sequence[Site], table: KernelTable, observe: Callable[[Site], None], max_rows: int) -> Choices:
    matmuls = [site for site in sites if isinstance(site, Matmul)]
    attentions = [site for site in sites if isinstance(site, Attention)]
    measured = tune_matmuls(matmuls, table, observe, max_rows)
    return measured | tune_attentions(attentions, table, observe, max_rows)


def _rows_of(site: Site, max_rows: int) -> tuple[int, ...]:
    return rows_of(site, max_rows) if isinstance(site, Matmul) else attention_rows_of(site, max_rows)


def _counted(sites: Sequence[Site]) -> str:
    """Such as `5 matmuls and 2 kinds of attention`."""
    matmuls = sum(isinstance(site, Matmul) for site in sites)
    rest = len(sites) - matmuls
    told = [f"{matmuls} matmuls"] * (matmuls > 0) + [f"{rest} kinds of attention"] * (rest > 0)
    return " and ".join(told)
