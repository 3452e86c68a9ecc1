"""What differs between two states of a graph, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from rich.text import Text

CONTEXT_LINES = 2
_STYLES = {"+": "green", "-": "red", "@": "dim"}


@dataclass(frozen=True)
class GraphDiff:
    """The lines that a pass took away (`-`) and put in (`+`), with a few around them (` `); `@` begins each region."""

    name: str
    lines: tuple[str, ...]

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
