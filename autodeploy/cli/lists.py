"""`autodeploy passes`, `patterns`, `recipes` and `gpus`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from autodeploy.cli import options as opt
from autodeploy.cli import output


def gpus(as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """List the devices a program can be built for."""
    from autodeploy.hardware import list_gpus

    rows = [
        (
            gpu.name,
            gpu.title,
            f"{gpu.memory_gb:g}",
            f"{gpu.bandwidth_gb_s:g}",
            f"{gpu.tflops.get('bf16', gpu.tflops.get('fp16', 0)):g}",
            f"{gpu.tflops['fp8']:g}" if "fp8" in gpu.tflops else "no",
            gpu.aliases,
        )
        for gpu in list_gpus()
    ]
    if as_json:
        output.print_json({"gpus": [gpu.model_dump(mode="json") for gpu in list_gpus()]})
        return
    columns = ("name", "device", "GB", "GB/s", "16-bit TFLOP/s", "fp8", "also called")
    output.out().print(output.table("GPUs", columns, rows))


def recipes(as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """List the recipes, and what each is for."""
    from autodeploy.discovery import discover

    registry = discover()
    rows = [
        (
            recipe.name,
            ", ".join(recipe.data.match.names()) or "named",
            recipe.data.reason,
            str(registry.origins["recipes", recipe.name]),
        )
        for recipe in registry.recipes.values()
    ]
    _print("recipes", ("name", "applies to", "reason", "origin"), rows, as_json, registry.problems)


def passes(as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """List the passes in the order of their stages."""
    from autodeploy.discovery import discover
    from autodeploy.insertion import anchors

    registry = discover()
    rows = [
        (
            one.name,
            one.stage.name,
            "exact" if one.exact else f"within {one.tolerance:g}",
            ", ".join(one.model_fields),
            _summary(one),
            anchors(one),
            str(registry.origins["passes", one.name]),
        )
        for one in sorted(registry.passes.values(), key=lambda one: (one.stage, one.name))
    ]
    columns = ("name", "stage", "numbers", "options", "what it does", "joins", "origin")
    _print("passes", columns, rows, as_json, registry.problems)


def patterns(as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """List the patterns that passes match."""
    from autodeploy.discovery import discover

    registry = discover()
    rows = [
        (rule.name, ", ".join(rule.holes), rule.doc.partition("\n")[0], str(registry.origins["patterns", rule.name]))
        for rule in sorted(registry.patterns.values(), key=lambda rule: rule.name)
    ]
    _print("patterns", ("name", "holes", "what it is", "origin"), rows, as_json, registry.problems)


def _print(
    what: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    as_json: bool,
    problems: Sequence[object],
) -> None:
    """The list, whose last column is the origin, and the disabled plugins: on stderr, or in the JSON object."""
    disabled = [str(problem) for problem in problems]
    if as_json:
        output.print_json({what: [dict(zip(columns, row, strict=True)) for row in rows], "disabled": disabled})
        return
    origins = {row[-1] for row in rows}
    if len(origins) == 1:  # said once: it would take the room of the descriptions
        title, columns, rows = f"{what.capitalize()} of {origins.pop()}", columns[:-1], [row[:-1] for row in rows]
    else:
        title = what.capitalize()
    output.out().print(output.table(title, columns, rows))
    for sentence in disabled:
        output.err().print(sentence, markup=False, soft_wrap=True)


def _summary(one: type) -> str:
    return (inspect.getdoc(one) or "").partition("\n")[0]
