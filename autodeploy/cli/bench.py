"""`autodeploy bench`: how fast a program is, and what each pass is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autodeploy.cli import options as opt
from autodeploy.cli import output, seam
from autodeploy.cli.progress import RichProgress
from autodeploy.errors import InputError

if TYPE_CHECKING:
    from autodeploy.bench import Ablation, Load, LoadSpeed

LOAD = "What is served"

Batch = Annotated[
    list[int] | None,
    typer.Option("--batch", min=1, help="Requests at once; can be repeated.  [default: 1, 8]", rich_help_panel=LOAD),
]
PromptTokens = Annotated[int, typer.Option(min=1, help="Tokens of each prompt: the context.", rich_help_panel=LOAD)]
NewTokens = Annotated[int, typer.Option(min=2, help="Tokens of each answer.", rich_help_panel=LOAD)]
Repeat = Annotated[int, typer.Option(min=1, help="Rounds; figures are their medians.", rich_help_panel=LOAD)]
Ablate = Annotated[
    bool,
    typer.Option("--ablate", help="Leave out each pass in turn, at the first batch size.", rich_help_panel=LOAD),
]


def bench(
    model: opt.ModelOrArtifact,
    batch: Batch = None,
    prompt_tokens: PromptTokens = 128,
    new_tokens: NewTokens = 32,
    repeat: Repeat = 5,
    ablate: Ablate = False,
    gpu: opt.Gpu = "auto",
    workload: opt.Workload = "balanced",
    recipe: opt.Recipe = "auto",
    dtype: opt.Dtype = "auto",
    settings: opt.Set = None,
    load_format: opt.LoadFormat = "auto",
    capture: opt.Capture = None,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Time the prefill and the decode steps of MODEL, or of the program in ARTIFACT, on random prompts."""
    opt.check_capture(capture)
    opt.check_load_format(load_format)
    options = opt.build_options(gpu, dtype, recipe, workload, settings, None, None)
    from autodeploy.bench import Load

    loads = [Load(size, prompt_tokens, new_tokens) for size in batch or (1, 8)]
    with RichProgress(output.err()) as progress:
        if ablate:
            found = _ablate(model, loads[0], repeat, options, load_format, progress)
            _show(model, as_json, ablation=found)
            return
        speeds = _speeds(model, loads, repeat, options, load_format, capture, progress)
    _show(model, as_json, speeds=speeds)


def _speeds(
    model: str,
    loads: list[Load],
    repeat: int,
    options: opt.BuildOptions,
    load_format: str,
    capture: str | None,
    progress: RichProgress,
) -> list[LoadSpeed]:
    from autodeploy.bench import measure_speed

    keywords = options.keywords()
    # A round must not find its prompts in the cache, and every request of a load must run at once.
    largest = max(load.batch_size for load in loads)
    keywords["set"] = {"runtime.max_batch_size": largest, **keywords["set"], "runtime.prefix_reuse": False}
    llm = seam.load_llm(model, **keywords, load_format=load_format, capture=capture, progress=progress)
    progress.start("bench", len(loads) * (repeat + 1))
    speeds = measure_speed(llm.engine, loads, repeat, lambda: progress.advance("bench"))
    progress.finish("bench")
    return speeds


def _ablate(
    model: str, load: Load, repeat: int, options: opt.BuildOptions, load_format: str, progress: RichProgress
) -> Ablation:
    from autodeploy.artifact.manifest import MANIFEST
    from autodeploy.bench import ablate
    from autodeploy.builder import Job

    if (Path(model) / MANIFEST).is_file():
        raise InputError(f"--ablate: {model} is an artifact, whose passes have run; give the model it was built from")
    keywords = options.keywords()
    values = {"runtime.max_batch_size": load.batch_size, **keywords.pop("set")}
    job = Job(model, **keywords, values=values, weights=load_format != "random")
    return ablate(job, load, repeat, load_format=load_format, progress=progress)


def _show(model: str, as_json: bool, *, speeds: Sequence[LoadSpeed] = (), ablation: Ablation | None = None) -> None:
    if as_json:
        found: dict[str, Any] = {"model": model, "speeds": [one.as_dict() for one in speeds]}
        output.print_json({**found, "ablation": ablation.as_dict() if ablation else None})
        return
    from autodeploy.bench.speed import speed_table

    output.out().print(ablation or speed_table(speeds, f"Speed of {model}"))
