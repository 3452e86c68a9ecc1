"""How the tables of a terminal look."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rich.table import Table

from autodeploy.inspect.kinds import Kind

KIND_STYLES: Mapping[Kind, str] = MappingProxyType(
    {
        Kind.MATMUL: "blue",
        Kind.ATTENTION: "yellow",
        Kind.NORM: "green",
        Kind.ACTIVATION: "magenta",
        Kind.EXPERTS: "bright_magenta",
        Kind.LOOKUP: "cyan",
        Kind.COLLECTIVE: "red",
    }
)
"""The colour of each kind; the others have none."""


def plain_table(title: str) -> Table:
    """A table without lines, under its title."""
    return Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)


def add_numbers(table: Table, *headings: str) -> None:
    """Add columns that align right."""
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
