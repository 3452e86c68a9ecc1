"""`autodeploy plugin new`: a package of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autodeploy.cli import options as opt
from autodeploy.cli import output
from autodeploy.scaffold import new_plugin

plugin = typer.Typer(help="Make a package of passes and patterns of your own.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The package's name, such as my-fusions.")]
Out = Annotated[Path | None, typer.Option(help="The package's folder.  [default: its name here]")]


@plugin.command("new")
def new(name: Name, out: Out = None, as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """Write a package with a pass, a pattern and tests, ready to install."""
    folder = out or Path(name)
    files = new_plugin(name, folder)
    if as_json:
        output.print_json({"plugin": name, "folder": str(folder), "files": [str(file) for file in files]})
        return
    console = output.out()
    for file in files:
        console.print(str(file), markup=False, soft_wrap=True)
    install = f"cd {folder} && pip install --no-deps --no-build-isolation -e . && python -m pytest tests"
    console.print(f"Next: {install}", markup=False, soft_wrap=True)
