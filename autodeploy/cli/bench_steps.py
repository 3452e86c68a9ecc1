"""`autodeploy bench` without `--run`: the time of single steps, and what each pass adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autodeploy.cli import options as opt
from autodeploy.cli import output, seam
from autodeploy.cli.progress import RichProgress
from autodeploy.errors import InputError


@dataclass(frozen=True)
class Loading:
    """What a benchmark loads, and how."""

    model: str
    options: opt.BuildOptions
    running: opt.RunOptions


def bench_steps(
    loading: Loading, batches: Sequence[int], prompt_tokens: int, new_tokens: int, repeat: int, as_json: bool
) -> None:
    """Time the prefill and the decode steps of each batch size."""
    from autodeploy.bench import Load, measure_speed
    from autodeploy.bench.speed import speed_table

    loads = [Load(size, prompt_tokens, new_tokens) for size in batches]
    keywords = loading.options.keywords()
    # A round must not find its prompts in the cache, and every request of a load must run at once.
    keywords["set"] = {"runtime.max_batch_size": max(batches), **keywords["set"], "runtime.prefix_reuse": False}
    with RichProgress(output.err()) as progress:
        llm = seam.load_llm(loading.model, **keywords, **loading.running.keywords(), progress=progress)
        progress.start("bench", len(loads) * (repeat + 1))
        speeds = measure_speed(llm.engine, loads, repeat, lambda: progress.advance("bench"))
        progress.finish("bench")
    if as_json:
        _print_json(loading, speeds=[one.as_dict() for one in speeds])
    else:
        output.out().print(speed_table(speeds, f"Speed of {loading.model}"))


def bench_passes(loading: Loading, batch: int, prompt_tokens: int, new_tokens: int, repeat: int, as_json: bool) -> None:
    """Leave out each pass in turn."""
    from autodeploy.artifact.manifest import MANIFEST
    from autodeploy.bench import Load
    from autodeploy.bench.ablation import ablate
    from autodeploy.job import Job

    model, load_format = loading.model, loading.running.load_format
    if (Path(model) / MANIFEST).is_file():
        raise InputError(f"--ablate: {model} is an artifact, whose passes have run; give the model it was built from")
    keywords = loading.options.keywords()
    values = {"runtime.max_batch_size": batch, **keywords.pop("set")}
    job = Job(model, **keywords, values=values, weights=load_format != "random")
    with RichProgress(output.err()) as progress:
        found = ablate(job, Load(batch, prompt_tokens, new_tokens), repeat, load_format=load_format, progress=progress)
    if as_json:
        _print_json(loading, ablation=found.as_dict())
    else:
        output.out().print(found)


def _print_json(
    loading: Loading, *, speeds: Sequence[dict[str, Any]] = (), ablation: dict[str, Any] | None = None
) -> None:
    output.print_json({"model": loading.model, "speeds": list(speeds), "ablation": ablation})
