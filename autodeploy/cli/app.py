"""The commands and their help."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from autodeploy.cli.bench import bench
from autodeploy.cli.build import build
from autodeploy.cli.doctor import doctor
from autodeploy.cli.explain import explain
from autodeploy.cli.inspect import inspect
from autodeploy.cli.lists import gpus, passes, patterns, recipes
from autodeploy.cli.plugin import plugin
from autodeploy.cli.push import push
from autodeploy.cli.quantize import quantize
from autodeploy.cli.run import generate, serve

HELP = """Compile a Hugging Face model into the fastest program that can serve it, and show every step.

`autodeploy MODEL` is `autodeploy build MODEL`.
"""
EXIT_CODES = "Exit codes: 0 done, 1 a failure of ours, 2 bad input, 130 interrupted."

app = typer.Typer(
    help=HELP,
    epilog=EXIT_CODES,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version("fx-autodeploy"))
        raise typer.Exit


@app.callback()
def autodeploy(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """The options before a command."""


MAKE, SHOW = "Build and run", "Look"
for command, panel in (
    (build, MAKE),
    (generate, MAKE),
    (serve, MAKE),
    (bench, MAKE),
    (quantize, MAKE),
    (push, MAKE),
    (explain, SHOW),
    (inspect, SHOW),
    (passes, SHOW),
    (patterns, SHOW),
    (recipes, SHOW),
    (gpus, SHOW),
    (doctor, SHOW),
):
    app.command(command.__name__, rich_help_panel=panel)(command)
app.add_typer(plugin, name="plugin", rich_help_panel="Extend")
