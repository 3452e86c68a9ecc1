"""What each pass is worth: the step time without it, against the whole recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from autodeploy.bench.measure import Load, spread, time_load
from autodeploy.choosing import Recipe
from autodeploy.errors import AutodeployError
from autodeploy.export import Traced
from autodeploy.job import Job
from autodeploy.optimizer import Compiled, compile_graph, make_program
from autodeploy.progress import Progress
from autodeploy.runtime.engine import Engine
from autodeploy.runtime.model import StepInputs
from autodeploy.weights.source import TensorSource
from autodeploy.workpiece import trace_job


@dataclass(frozen=True)
class PassWorth:
    """A recipe without one of its passes, against the whole recipe.

    `worth_percent` is how much longer a step takes without the pass, the median of the rounds, half of which lie in
    `spread_percent`; it and the times are None where `reason` says why there is no program without the pass.
    """

    index: int
    name: str
    matches: int
    nodes_without: int | None = None
    step_ms: float | None = None
    step_ms_without: float | None = None
    worth_percent: float | None = None
    spread_percent: tuple[float, float] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Ablation:
    """What the passes of a recipe are worth under one load, in their order."""

    load: Load
    nodes: int
    rows: tuple[PassWorth, ...]

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON data."""
        return asdict(self)

    def __rich__(self) -> Group:
        """A row for each pass that was timed, and a line for each of the others."""
        title = f"Worth of each pass: batch {self.load.batch_size}, {self.load.prompt_tokens} tokens of context"
        result = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        result.add_column("left out", no_wrap=True)
        for heading in ("matches", "nodes", "step ms", "with it", "worth", "half between"):
            result.add_column(heading, justify="right", no_wrap=True)
        for row in self.rows:
            if row.reason is None:
                result.add_row(*_cells(row))
        others = [Text(f"{row.name}: {row.reason}", "dim") for row in self.rows if row.reason]
        return Group(result, Text(), *others)


def ablate(job: Job, load: Load, repeat: int, *, load_format: str = "auto", progress: Progress) -> Ablation:
    """Leave out each pass in turn, and time the rest and the whole recipe turn by turn.

    The graph is traced once; two programs are in memory at a time. Raises InputError when the device is not here.
    """
    traced, source = trace_job(job, load_format, progress)
    bench = _Bench(job, traced, source, load)
    whole = bench.compiled(job.recipe)
    engine = bench.engine(whole)
    rows = []
    progress.start("ablate", len(job.recipe.passes))
    for index, report in enumerate(whole.history):
        row = PassWorth(index, report.name, report.matches)
        rows.append(bench.worth(row, engine, repeat) if report.matches else replace(row, reason="it matched nothing"))
        progress.advance("ablate")
    progress.finish("ablate")
    return Ablation(load, len(whole.graph_module.graph.nodes), tuple(rows))


def without_pass(recipe: Recipe, index: int) -> Recipe:
    """The recipe without the pass at `index`."""
    return replace(recipe, passes=(*recipe.passes[:index], *recipe.passes[index + 1 :]))


@dataclass(frozen=True)
class _Bench:
    """Makes engines of one traced model and compares them."""

    job: Job
    traced: Traced
    source: TensorSource
    load: Load

    def compiled(self, recipe: Recipe) -> Compiled:
        """The graph that a recipe makes."""
        return compile_graph(self.traced, recipe, self.source, self.job.device)

    def engine(self, compiled: Compiled) -> Engine:
        """An engine with just the cache that the load takes."""
        settings = compiled.recipe.runtime
        num_pages = self.load.num_pages(settings.page_size)
        program = make_program(compiled, self.source, self.job.device)
        return Engine.of(program, None, settings.model_copy(update={"num_pages": num_pages, "prefix_reuse": False}))

    def worth(self, row: PassWorth, whole: Engine, repeat: int) -> PassWorth:
        """Fill in what leaving out the pass of `row` does."""
        try:
            compiled = self.compiled(without_pass(self.job.recipe, row.index))
        except AutodeployError as error:
            return replace(row, reason=f"no graph without it: {error}")
        row = replace(row, nodes_without=len(compiled.graph_module.graph.nodes))
        reason = _unservable(compiled)
        if reason is not None:
            return replace(row, reason=reason)
        return _compare(row, whole, self.engine(compiled), self.load, repeat)


def _unservable(compiled: Compiled) -> str | None:
    """Why the runtime cannot run a graph, or None: it lacks the cache or inputs that steps are made of."""
    assert compiled.spec is not None, "a model of transformers has a spec"
    if not compiled.spec.caches:
        return "without it there is no cache to serve from"
    given = {str(node.target) for node in compiled.graph_module.graph.find_nodes(op="placeholder")}
    missing = [name for name in StepInputs.__dataclass_fields__ if name not in given]
    return f"without it the graph does not take {missing[0]}" if missing else None


def _compare(row: PassWorth, whole: Engine, rest: Engine, load: Load, repeat: int) -> PassWorth:
    """Time both in turn, first the one and then the other, so that what slows the machine slows both."""
    with_it: list[float] = []
    without: list[float] = []
    for round_ in range(repeat + 1):
        pair = [(whole, with_it), (rest, without)]
        for engine, steps in pair if round_ % 2 else reversed(pair):
            steps.append(1e3 * time_load(engine, load, seed=round_).step)
    ratios = [100 * (slow / fast - 1) for slow, fast in zip(without[1:], with_it[1:], strict=True)]
    return replace(
        row,
        step_ms=median(with_it[1:]),
        step_ms_without=median(without[1:]),
        worth_percent=median(ratios),
        spread_percent=spread(ratios),
    )


def _cells(row: PassWorth) -> Iterator[str]:
    yield from (row.name, str(row.matches), str(row.nodes_without))
    yield from (f"{row.step_ms_without:.2f}", f"{row.step_ms:.2f}", f"{row.worth_percent:+.1f} %")
    yield " to ".join(f"{percent:+.1f}" for percent in row.spread_percent or ())
