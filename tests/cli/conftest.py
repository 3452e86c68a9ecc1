from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from autodeploy.cli import main, seam
from autodeploy.plan import Decision, Plan
from autodeploy.progress import Progress, stage


@dataclass
class Run:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass
class FakeArtifact:
    path: Path
    recipe: dict[str, Any] = field(default_factory=lambda: {"version": 1})
    history: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"name": "fuse_qkv", "matches": 30, "nodes_before": 900, "nodes_after": 840, "seconds": 0.25}
        ]
    )
    verification: dict[str, Any] | None = None


@dataclass
class FakeBuilder:
    """Stands where the compiler is, and remembers how it was called."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    error: BaseException | None = None

    def plan(self, model: str, *, progress: Progress, **options: Any) -> Plan:
        self._called(model, options)
        return Plan(model, (Decision("device", "cpu", "asked for"),), ("no recipe knows it",))

    def build(self, model: str, *, progress: Progress, **options: Any) -> FakeArtifact:
        self._called(model, options)
        with stage(progress, "export"):
            progress.note("a note")
        progress.start("weights", 2)
        progress.advance("weights", 2)
        progress.finish("weights", "2 tensors")
        return FakeArtifact(Path(options["out"]))

    def _called(self, model: str, options: dict[str, Any]) -> None:
        self.calls.append((model, options))
        if self.error is not None:
            raise self.error


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> FakeBuilder:
    fake = FakeBuilder()
    monkeypatch.setattr(seam, "build", fake.build)
    monkeypatch.setattr(seam, "plan", fake.plan)
    return fake


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    monkeypatch.setenv("COLUMNS", "200")

    def run_one(*words: str) -> Run:
        code = main(words)
        captured = capsys.readouterr()
        return Run(code, captured.out, captured.err)

    return run_one
