"""How long work tells where it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # a worker is in a hurry, and plans nothing
    from autodeploy.plan import Plan


class Progress(Protocol):
    """Told of the stages of a build: `resolve`, `export`, `pass fuse_qkv`, `weights`, `compile` …"""

    def plan(self, plan: Plan) -> None:
        """What is going to be done; told once, before the stages that it decides."""

    def start(self, stage: str, total: int | None = None) -> None:
        """A stage begins; `total` says how many steps it has, when that is known."""

    def advance(self, stage: str, count: int = 1) -> None:
        """`count` more of the stage's steps are done."""

    def finish(self, stage: str, detail: str = "") -> None:
        """A stage has ended well; `detail` is what it came to, such as `30 matches`."""

    def note(self, sentence: str) -> None:
        """Something the user should know."""


@dataclass(frozen=True)
class NullProgress:
    """Says nothing."""

    def plan(self, plan: Plan) -> None:
        """Ignored."""

    def start(self, stage: str, total: int | None = None) -> None:
        """Ignored."""

    def advance(self, stage: str, count: int = 1) -> None:
        """Ignored."""

    def finish(self, stage: str, detail: str = "") -> None:
        """Ignored."""

    def note(self, sentence: str) -> None:
        """Ignored."""


@contextmanager
def stage(progress: Progress, name: str, total: int | None = None) -> Iterator[None]:
    """A stage that takes as long as the block, and is not finished when the block raises."""
    progress.start(name, total)
    yield
    progress.finish(name)
