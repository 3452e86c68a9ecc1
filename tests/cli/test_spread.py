from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from autodeploy.cli.options import BuildOptions
from autodeploy.cli.spread import spread
from autodeploy.errors import InputError


@dataclass(frozen=True)
class Size:
    """Options that come together."""

    width: Annotated[int, typer.Option(help="How wide.")] = 1
    height: Annotated[int, typer.Option(help="How high.")] = 2
    depth: int = 3

    def __post_init__(self) -> None:
        if self.width > 9:
            raise InputError(f"--width {self.width}: at most 9")


@spread(without=("depth",))
def draw(name: str, *, before: int = 0, size: Size, after: int = 0) -> tuple[str, Size]:
    """Draw."""
    return name, size


def test_options_stand_where_the_dataclass_stood() -> None:
    assert list(inspect.signature(draw).parameters) == ["name", "before", "width", "height", "after"]


def test_the_command_gets_the_dataclass() -> None:
    app = typer.Typer()
    app.command()(draw)
    assert app(["square", "--height", "7"], standalone_mode=False) == ("square", Size(height=7))


def test_help_says_what_the_fields_say() -> None:
    app = typer.Typer()
    app.command()(draw)
    shown = CliRunner().invoke(app, ["--help"]).output
    assert "How wide." in shown
    assert "How high." in shown
    assert "depth" not in shown


def test_a_wrong_value_ends_before_the_command() -> None:
    app = typer.Typer()
    app.command()(draw)
    with pytest.raises(InputError, match="at most 9"):
        app(["square", "--width", "10"], standalone_mode=False)


def test_settings_are_read_at_once() -> None:
    with pytest.raises(InputError, match="page_size"):
        BuildOptions(settings=["runtime.page_size"])
