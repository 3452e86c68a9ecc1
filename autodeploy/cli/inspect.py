"""`autodeploy inspect`: what an artifact holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autodeploy.cli import options as opt
from autodeploy.cli import output

if TYPE_CHECKING:
    from torch.fx import Graph

Artifact = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A folder that `build` made.", show_default=False)]


def inspect(artifact: Artifact, as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """Show an artifact's operators, and what each pass did to make it."""
    from autodeploy.artifact import load

    loaded = load(artifact)
    operators = {name: _count(loaded.graph_module(name).graph) for name in loaded.graph_names}
    if as_json:
        result = {"artifact": str(artifact), "operators": operators, "history": loaded.history, "recipe": loaded.recipe}
        output.print_json(result)
        return
    console = output.out()
    for name, counts in operators.items():
        console.print(output.table(f"Operators of {name}", ("operator", "calls"), counts.items()))
        console.print()
    console.print(output.history_table(loaded.history))


def _count(graph: Graph) -> dict[str, int]:
    from autodeploy.artifact.operators import target_name

    calls = Counter(target_name(node.target, node.name) for node in graph.nodes if node.op == "call_function")
    return dict(calls.most_common())
