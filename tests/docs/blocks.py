"""The code in documents, block by block."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELLS = ("bash", "console")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, what else stands in the fence, its text, and the line at which that begins."""

    file: Path
    line: int
    language: str
    remark: str
    text: str

    @property
    def runs(self) -> bool:
        """Whether the tests run it: it is code, and its fence does not say `no-run: REASON`."""
        return self.language in ("python", *SHELLS) and not self.remark.startswith("no-run:")

    @property
    def source(self) -> str:
        """The text behind as many empty lines as put it where it stands in the file."""
        return "\n" * (self.line - 1) + self.text

    def commands(self) -> list[list[str]]:
        """The words of each command of a shell block; in a console block those behind `$`."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks_of(file: Path) -> Iterator[Block]:
    """The fenced blocks of a document, in order."""
    text = file.read_text()
    for found in FENCE.finditer(text):
        language, _, remark = found[1].partition(" ")
        yield Block(file, text.count("\n", 0, found.start(2)) + 1, language, remark, found[2])
