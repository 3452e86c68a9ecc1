"""What differs between two states of a graph, as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from itertools import pairwise

from rich.text import Text
from torch.fx import Graph

from autodeploy.graph.labels import Labels
from autodeploy.graph.text import graph_lines

CONTEXT_LINES = 2
_NUMBERS = re.compile(r"_\d+\b|(?<=\.)\d+(?=\.)")  # by which nodes and weights of layers differ
_STYLES = {"+": "green", "-": "red", "@": "dim"}


@dataclass(frozen=True)
class GraphDiff:
    """The lines that a pass took away (`-`) and put in (`+`), with a few around them (` `); `@` begins each region."""

    name: str
    lines: tuple[str, ...]
    graphs: tuple[Graph, Graph] | None = field(default=None, repr=False, compare=False)
    """Before and after, where both are at hand: a notebook draws them."""

    @property
    def regions(self) -> list[tuple[int, tuple[str, ...]]]:
        """What changed, region by region without the `@`: those that differ in their layer alone are told once.

        With each, how many there are. Inputs that differ in their numbers alone share a line.
        """
        found: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        starts = [*(at for at, line in enumerate(self.lines) if line.startswith("@")), len(self.lines)]
        for start, stop in pairwise(starts):
            region = self.lines[start + 1 : stop]
            found.setdefault(tuple(_NUMBERS.sub("", line) for line in region), []).append(region)
        return [(len(alike), tuple(_brief(alike[0]))) for alike in found.values()]

    @property
    def removed(self) -> tuple[str, ...]:
        """The lines that are gone."""
        return tuple(line[2:] for line in self.lines if line.startswith("-"))

    @property
    def added(self) -> tuple[str, ...]:
        """The lines that are new."""
        return tuple(line[2:] for line in self.lines if line.startswith("+"))

    def __str__(self) -> str:
        body = "\n".join(self.lines) or "  nothing changed"
        return f"{self.name}: {len(self.removed)} lines became {len(self.added)}\n{body}"

    def __rich__(self) -> Text:
        """The same text with colours."""
        head, *body = str(self).split("\n")
        lines = [Text(head, "bold"), *(Text(line, _STYLES.get(line[:1], "")) for line in body)]
        return Text("\n").join(lines)

    def _repr_html_(self) -> str:
        """How it looks in a notebook."""
        from autodeploy.inspect import view_diff  # views know graphs, not the other way round

        return view_diff(self)._repr_html_()


def diff_graphs(name: str, before: Graph, after: Graph) -> GraphDiff:
    """Compare two graphs by the lines of their texts, in which dynamic sizes have the names of what they count."""
    labels = Labels(after)
    texts = ([labels.renamed(line) for line in graph_lines(graph)] for graph in (before, after))
    return replace(diff_lines(name, *texts), graphs=(before, after))


def diff_lines(name: str, before: Sequence[str], after: Sequence[str]) -> GraphDiff:
    """Compare two texts of a graph by line."""
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    lines: list[str] = []
    for group in matcher.get_grouped_opcodes(CONTEXT_LINES):
        lines.append(f"@ line {group[0][1] + 1}")
        for tag, start, stop, new_start, new_stop in group:
            if tag == "equal":
                lines += [f"  {line}" for line in before[start:stop]]
            else:
                lines += [f"- {line}" for line in before[start:stop]]
                lines += [f"+ {line}" for line in after[new_start:new_stop]]
    return GraphDiff(name, tuple(lines))


def _brief(lines: Iterable[str]) -> Iterator[str]:
    """The lines, those of inputs such as the caches of all layers once."""
    alike: dict[str, list[str]] = {}
    for line in lines:
        stem = line if " = " in line else re.sub(r"\d+", "", line.partition(":")[0])
        alike.setdefault(stem, []).append(line)
    for group in alike.values():
        yield group[0] + (f", and {len(group) - 1} more of its kind" if len(group) > 1 else "")
