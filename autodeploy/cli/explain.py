"""`autodeploy explain`: what a build would use and why, or what one pattern did to a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from autodeploy.cli import options as opt
from autodeploy.cli import output, seam
from autodeploy.cli.progress import RichProgress
from autodeploy.cli.spread import spread
from autodeploy.layers import COST_MODEL, SET
from autodeploy.plan import Plan

if TYPE_CHECKING:
    from autodeploy.explanation import PatternExplanation
    from autodeploy.rewrite.place import Folded, Miss

Pattern = Annotated[
    str | None,
    typer.Option(help="Tell where this pattern matches, and why it does not elsewhere.", rich_help_panel=opt.OUTPUT),
]


@spread()
def explain(
    model: opt.Model,
    *,
    pattern: Pattern = None,
    options: opt.BuildOptions,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Show the recipe that MODEL gets and why, or what one pattern does to it; reads no weights."""
    with RichProgress(output.err()) as progress:
        if pattern is not None:
            told = seam.explain_pattern(model, pattern, **options.keywords(), progress=progress)
        else:
            plan = seam.plan(model, **options.keywords(), progress=progress)
    if as_json:
        output.print_json(told.as_dict() if pattern is not None else plan.as_dict())
        return
    console = output.out()
    if pattern is not None:
        _show_pattern(console, told)
    else:
        _show_plan(console, plan)


def _show_plan(console: Console, plan: Plan) -> None:
    """The decisions that are no values of the recipe, the outlook, the values, and the reason of each layer."""
    keys = {"passes", *(one.key for one in plan.choices)}
    decisions = tuple(one for one in plan.decisions if one.what not in keys)
    console.print(output.plan_table(replace(plan, decisions=decisions)))
    console.print()
    output.print_outlook(console, plan)
    console.print(output.recipe_table(plan))
    console.print()
    _show_notes(console, [*_reasons(plan), *plan.notes])


def _reasons(plan: Plan) -> dict[str, None]:
    """The reason of each layer; of a cost model, that of each value."""
    whys = ((one, one.origin) for one in plan.choices if one.origin.reason and one.origin.layer != SET)
    return {f"{why.layer if why.layer != COST_MODEL else one.key}: {why.reason}": None for one, why in whys}


def _show_pattern(console: Console, told: PatternExplanation) -> None:
    from autodeploy.rewrite.place import fold

    tried = f", tried by {', '.join(told.passes)}" if told.passes else ""
    console.print(f"{told.pattern}{tried}", style="bold", markup=False)
    console.print(told.doc, markup=False)
    if told.places:
        rows = [(one.module, one.count, one.first.source) for one in fold(told.places)]
        console.print()
        console.print(output.table(f"Matched {_times(len(told.places))}", ("module", "times", "line"), rows))
    elif told.passes:
        console.print("\nIt matched nowhere.")
    if told.misses:
        console.print(f"\nLooked right and did not match {_times(len(told.misses))}", style="bold")
        for one in fold(told.misses):
            _show_miss(console, one)
    elif told.passes:
        console.print("\nNothing else looked like it.")
    _show_notes(console, told.notes)


def _show_miss(console: Console, folded: Folded[Miss]) -> None:
    miss = folded.first
    times = f", {_times(folded.count)}" if folded.count > 1 else ""
    console.print(f"• {folded.module or miss.root}{times}", markup=False)
    console.print(f"  {miss.root} stopped at {miss.node}: {miss.reason}", markup=False)
    if miss.source:
        console.print(f"  {miss.source}", style="dim", markup=False)


def _show_notes(console: Console, notes: Iterable[str]) -> None:
    for sentence in notes:
        console.print(f"• {sentence}", markup=False)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
