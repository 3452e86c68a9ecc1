"""Progress on a terminal, or as plain lines where stderr is none."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from autodeploy.cli.output import plan_table
from autodeploy.plan import Plan


@dataclass
class RichProgress:
    """Shows the running stages as bars, and leaves a line for each one that has ended."""

    console: Console
    _bars: Progress = field(init=False)
    _tasks: dict[str, tuple[TaskID, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)

    def __enter__(self) -> RichProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def plan(self, plan: Plan) -> None:
        """Show the plan with its reasons."""
        self.console.print(plan_table(plan))
        for sentence in plan.notes:
            self.note(sentence)

    def start(self, stage: str, total: int | None = None) -> None:
        """Show a bar; one without a total only moves."""
        self._tasks[stage] = (self._bars.add_task(stage, total=total), time.perf_counter())

    def advance(self, stage: str, count: int = 1) -> None:
        """Move the stage's bar."""
        self._bars.advance(self._tasks[stage][0], count)

    def finish(self, stage: str, detail: str = "") -> None:
        """Replace the stage's bar by a line that stays."""
        task, started = self._tasks.pop(stage)
        self._bars.remove_task(task)
        seconds = time.perf_counter() - started
        took = f"  {seconds:.1f} s" if seconds >= 0.05 else ""
        line = Text.assemble(("✓ ", "green"), stage, (f"  {detail}" if detail else ""), (took, "dim"))
        self.console.print(line)

    def note(self, sentence: str) -> None:
        """Show a sentence."""
        self.console.print(Text.assemble(("• ", "yellow"), sentence))
