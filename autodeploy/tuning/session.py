"""What to do about tuning here: remember, measure, or leave it to the machine that has the GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from autodeploy.kernels import KernelTable
from autodeploy.tuning.choices import Choices
from autodeploy.tuning.matmul import Matmul
from autodeploy.tuning.store import Conditions, conditions, load_choices, save_choices
from autodeploy.tuning.tune import ROWS, rows_of, tune_matmuls


@dataclass(frozen=True)
class Tuning:
    """The choices for a model's matmuls, under which conditions they hold, and what the user should know of them."""

    choices: Choices = field(default_factory=Choices)
    conditions: Conditions | None = None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The choices and conditions as JSON data."""
        return {"conditions": dict(self.conditions or {}), "matmuls": self.choices.as_data()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tuning:
        """The choices and conditions from what `as_dict` gave."""
        return cls(Choices.from_data(data["matmuls"]), data["conditions"])


def tune(
    matmuls: Sequence[Matmul],
    table: KernelTable,
    device: torch.device,
    known: Tuning | None = None,
    observe: Callable[[Matmul], None] = lambda _: None,
    max_rows: int = 0,
) -> Tuning:
    """Choices for `matmuls` on `device`: those of `known` and the user's cache, and measured ones for the others.

    What is known must reach `max_rows`, of which 0 means that whatever is known will do. What is measured goes to the
    user's cache. Nothing is measured for a CPU, whose kernels leave no choice, nor for a
    GPU that is not here.
    """
    if device.type == "cpu":
        return Tuning()
    if not torch.cuda.is_available():
        return Tuning(notes=("this machine has no GPU: kernels are chosen by a table until the program first loads",))
    here = conditions(device)
    choices = load_choices(here)
    if known is not None and known.conditions == here:
        choices = choices | known.choices
    missing = choices.missing(matmuls, lambda one: rows_of(one, max_rows) if max_rows else ())
    notes: tuple[str, ...] = ()
    if missing:
        started = time.perf_counter()
        measured = tune_matmuls(missing, table, observe, max_rows or ROWS[-1])
        save_choices(here, measured)
        choices = choices | measured
        notes = (f"tuned {len(missing)} matmuls in {time.perf_counter() - started:.0f} s",)
    return Tuning(choices.only(matmuls), here, notes)
