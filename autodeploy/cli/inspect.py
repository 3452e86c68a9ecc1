"""`autodeploy inspect`: the graph of an artifact or a model, and what each pass did to it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from autodeploy.cli import options as opt
from autodeploy.cli import output, seam
from autodeploy.cli.progress import RichProgress
from autodeploy.cli.spread import spread
from autodeploy.errors import InputError

if TYPE_CHECKING:
    from torch.fx import Graph

    from autodeploy.graph.diff import GraphDiff
    from autodeploy.inspect.load import Inspected

Pass = Annotated[
    str | None,
    typer.Option(
        "--pass", metavar="N|NAME", help="Show what one pass changed; of a model.", rich_help_panel=opt.OUTPUT
    ),
]
Layer = Annotated[int | None, typer.Option(min=0, help="Show the calls of one layer.", rich_help_panel=opt.OUTPUT)]
Op = Annotated[
    str | None,
    typer.Option(
        "--op", metavar="NAME", help="Show one node, or where an operator is called.", rich_help_panel=opt.OUTPUT
    ),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write the view as a page for a browser.", rich_help_panel=opt.OUTPUT),
]


@spread(without=("quantize_head", "kv_cache", "max_batch", "max_tokens"))
def inspect(
    model: opt.ModelOrArtifact,
    *,
    changed_by: Pass = None,
    layer: Layer = None,
    op: Op = None,
    html: Html = None,
    options: opt.BuildOptions,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Show a graph as a tree of modules and layers, its operators, and what each pass did; reads no weights."""
    if sum(one is not None for one in (changed_by, layer, op)) > 1:
        raise InputError("--pass, --layer and --op show one thing each; give one of them")
    if html is not None and not html.parent.is_dir():
        raise InputError(f"--html {html}: there is no folder {html.parent}")
    with RichProgress(output.err()) as progress:
        found = seam.inspect(model, **options.keywords(), progress=progress)
        diff = found.diff(changed_by) if changed_by is not None else None
    if html is not None:
        _save(html, found, diff)
    if as_json:
        output.print_json(_as_data(found, diff))
    elif html is None:
        _show(output.out(), found, diff, layer, op)


def _show(console: Console, found: Inspected, diff: GraphDiff | None, layer: int | None, op: str | None) -> None:
    from autodeploy.inspect.changes import show_diff
    from autodeploy.inspect.layer import show_layer
    from autodeploy.inspect.terminal import show_operation, show_summary, show_tree

    view = found.subject.view
    if diff is not None:
        console.print(show_diff(diff))
    elif layer is not None:
        console.print(show_layer(found.subject, layer, console.width))
    elif op is not None:
        console.print(show_operation(view, op))
    else:
        console.print(show_tree(view))
        console.print()
        console.print(show_summary(view, console.width))
        console.print()
        console.print(output.history_table(found.subject.history))


def _save(path: Path, found: Inspected, diff: GraphDiff | None) -> None:
    from autodeploy.inspect import view, view_diff

    (view(found.subject) if diff is None else view_diff(diff)).save(path)
    output.err().print(f"wrote {path}", markup=False, soft_wrap=True)


def _as_data(found: Inspected, diff: GraphDiff | None) -> dict[str, Any]:
    if diff is not None:
        regions = [{"times": times, "lines": lines} for times, lines in diff.regions]
        return {"pass": diff.name, "removed": len(diff.removed), "added": len(diff.added), "regions": regions}
    subject = found.subject
    return {
        "name": found.name,
        "operators": {name: _count(graph) for name, graph in found.graphs.items()},
        "graph": subject.view.as_dict(),
        "history": list(subject.history),
        "recipe": found.recipe,
    }


def _count(graph: Graph) -> dict[str, int]:
    from autodeploy.artifact.operators import target_name

    calls = Counter(target_name(node.target, node.name) for node in graph.nodes if node.op == "call_function")
    return dict(calls.most_common())
