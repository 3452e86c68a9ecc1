"""What pytest learns from this package wherever it is installed: `--update-golden`, and the `golden` fixture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autodeploy.testing.golden import assert_golden


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update-golden`."""
    group = parser.getgroup("autodeploy")
    group.addoption("--update-golden", action="store_true", help="write golden files instead of comparing with them")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Path], None]:
    """A function that compares a text with the golden file at a path, relative to the test's folder."""
    update: bool = request.config.getoption("--update-golden")

    def compare(text: str, path: Path) -> None:
        assert_golden(text, request.path.parent / path, update=update)

    return compare
