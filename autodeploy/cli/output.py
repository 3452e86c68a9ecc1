"""What a command prints: tables and answers, or one JSON object, on stdout; everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from autodeploy.layers import SET, Origin
from autodeploy.plan import Plan


def out() -> Console:
    """Where results go. Made anew each time, for stdout may be replaced while the process lives."""
    return Console(file=sys.stdout, highlight=False)


def err() -> Console:
    """Where progress and notes go."""
    return Console(file=sys.stderr, highlight=False)


def print_json(data: dict[str, Any]) -> None:
    """The one object of `--json`."""
    print(json.dumps(data, ensure_ascii=False, default=str))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], whole: Sequence[str] = ()) -> Table:
    """A table whose columns of numbers align right, without the columns that nothing fills.

    The first column holds names, which one copies: they are never broken, nor are those of the columns `whole`.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    result = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    shown = [index for index in range(len(columns)) if index == 0 or any(row[index] for row in cells)]
    for index in shown:
        numeric = bool(cells) and all(row[index].replace(".", "", 1).replace(",", "").isdigit() for row in cells)
        kept = index == 0 or columns[index] in whole
        result.add_column(columns[index], justify="right" if numeric else "left", overflow="fold", no_wrap=kept)
    for row in cells:
        result.add_row(*(Text(row[index]) for index in shown))
    return result


def plan_table(plan: Plan) -> Table:
    """A plan, with the reason of each decision."""
    rows = [(one.what, one.value, one.reason) for one in plan.decisions]
    return table(f"Plan for {plan.model}", ("what", "choice", "why"), rows)


def print_outlook(console: Console, plan: Plan) -> None:
    """What is known of the model on the device, if anything is."""
    from autodeploy.cli.outlook import outlook_parts

    for part in outlook_parts(plan.outlook) if plan.outlook is not None else ():
        console.print(part)
        console.print()


def recipe_table(plan: Plan) -> Table:
    """Every value of the resolved recipe, and where it was set."""
    rows = [(one.key, _switch(one.value), one.origin.layer, _place(one.origin)) for one in plan.choices]
    return table("Recipe", ("key", "value", "from", "where"), rows, whole=("where",))


def _place(origin: Origin) -> str:
    """A file's name and line; of `--set` nothing, which would say the key and the value again."""
    return "" if origin.layer == SET else Path(origin.where).name


def _switch(value: object) -> object:
    """A value as `--set` takes it."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def history_table(history: Iterable[dict[str, Any]]) -> Table:
    """What each pass did."""
    rows = [
        (
            report["name"],
            index,
            report["matches"],
            f"{report['nodes_before']} → {report['nodes_after']}",
            f"{report['seconds']:.2f}",
        )
        for index, report in enumerate(history)
    ]
    return table("Passes", ("pass", "#", "matches", "nodes", "seconds"), rows)


def _cell(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(str(one) for one in value)
    return "" if value is None else str(value)
