"""`autodeploy push`: an artifact to the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from autodeploy.cli import options as opt
from autodeploy.cli import output
from autodeploy.cli.progress import RichProgress
from autodeploy.progress import stage

Artifact = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A folder that `build` made.", show_default=False)]
Repository = Annotated[str, typer.Argument(metavar="ORG/NAME", help="Where it goes on the Hub.", show_default=False)]
Private = Annotated[bool, typer.Option("--private", help="Make a new repository private.")]
Revision = Annotated[str | None, typer.Option(help="A branch that exists.  [default: main]")]


def push(
    artifact: Artifact,
    repository: Repository,
    private: Private = False,
    revision: Revision = None,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Upload ARTIFACT to the Hugging Face Hub, from where `autodeploy serve ORG/NAME` takes it."""
    from autodeploy.artifact import load
    from autodeploy.hub.push import push as upload

    with RichProgress(output.err()) as progress, stage(progress, "push"):
        pushed = upload(load(artifact), repository, private=private, revision=revision)
    if as_json:
        output.print_json(asdict(pushed))
        return
    output.out().print(
        f"Pushed to {pushed.url} at {pushed.revision}. Next: autodeploy serve {pushed.repo_id}",
        markup=False,
        soft_wrap=True,
    )
