"""What a terminal shows of a pass: the lines that it changed, those of alike layers once."""

from __future__ import annotations

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from autodeploy.graph.diff import GraphDiff

_STYLES = {"+": "green", "-": "red"}


def show_diff(diff: GraphDiff) -> RenderableType:
    """What a pass changed; of regions that differ in their layer alone the first, and how many there are."""
    if not diff.lines:
        return Text(f"{diff.name}: nothing changed")
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")  # which keeps the rest of a long line clear of the marks
    for times, lines in diff.regions:
        grid.add_row(Text("@", "cyan"), Text(f"{times} times" if times > 1 else "once", "cyan"))
        for line in lines:
            style = _STYLES.get(line[:1], "")
            grid.add_row(Text(line[:1], style), Text(line[2:], style))
    return Lines(Text(f"{diff.name}: {len(diff.removed)} lines became {len(diff.added)}", "bold"), grid)
