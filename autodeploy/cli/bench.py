"""`autodeploy bench`: how fast a program is, where its time goes, and what each pass is worth."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autodeploy.cli import options as opt
from autodeploy.cli import output
from autodeploy.cli.bench_steps import Loading, bench_passes, bench_steps
from autodeploy.cli.progress import RichProgress
from autodeploy.cli.spread import spread
from autodeploy.errors import InputError

if TYPE_CHECKING:
    from autodeploy.bench import Comparison, Report

RUNS, LOAD, REPORT = "What is measured", "What is served without --run", "What becomes of the figures"
FAILED = 1

Runs = Annotated[
    list[str] | None,
    typer.Option(
        "--run",
        metavar="WORKLOAD",
        help="decode:BATCH, ttft:TOKENS, offline:PROMPTxNEW[xREQUESTS], prefix:SHARED+OWNxREQUESTS,"
        " serve:RATE[@AT_ONCE][xREQUESTS] (requests a second, or inf), ready[:cold], or targets for a whole table."
        " Can be repeated.",
        rich_help_panel=RUNS,
    ),
]
Profile = Annotated[
    bool,
    typer.Option("--profile", help="Where the time of each decode and ttft goes, by kernel.", rich_help_panel=RUNS),
]
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
Save = Annotated[Path | None, typer.Option(help="Write the report of --run to this file.", rich_help_panel=REPORT)]
Baseline = Annotated[
    Path | None, typer.Option(help="Compare with a saved report; exit 1 if worse.", rich_help_panel=REPORT)
]
Tolerance = Annotated[
    float, typer.Option(min=0, help="Percent that a figure may lose to --baseline.", rich_help_panel=REPORT)
]


@spread(without=("max_batch", "max_tokens"))  # they follow from what is measured
def bench(
    model: opt.ModelOrArtifact,
    *,
    run: Runs = None,
    profile: Profile = False,
    batch: Batch = None,
    prompt_tokens: PromptTokens = 128,
    new_tokens: NewTokens = 32,
    repeat: Repeat = 5,
    ablate: Ablate = False,
    save: Save = None,
    baseline: Baseline = None,
    tolerance: Tolerance = 5.0,
    options: opt.BuildOptions,
    running: opt.RunOptions,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> int:
    """Measure MODEL, or the program in ARTIFACT, on random prompts: with --run by workloads, else step by step."""
    loading = Loading(model, options, running)
    if run:
        if batch or ablate:
            raise InputError("--run has its own batch sizes and passes: leave out --batch and --ablate")
        return _deliver(*_report(loading, run, profile, baseline, tolerance), save, as_json)
    for option, given in (("--profile", profile), ("--save", save), ("--baseline", baseline)):
        if given:
            raise InputError(f"{option} is about workloads: add --run targets, or --run decode:1")
    if ablate:
        bench_passes(loading, (batch or [1])[0], prompt_tokens, new_tokens, repeat, as_json)
    else:
        bench_steps(loading, batch or [1, 8], prompt_tokens, new_tokens, repeat, as_json)
    return 0


def _report(
    loading: Loading, run: list[str], profile: bool, baseline: Path | None, tolerance: float
) -> tuple[Report, Comparison | None]:
    """What the workloads of `run` come to, and how that compares with the baseline."""
    from autodeploy.bench import Session, compare, parse_workloads, read_figures
    from autodeploy.llm import find_artifact

    workloads = parse_workloads(run)
    before = None if baseline is None else read_figures(baseline)
    options, running = loading.options, loading.running
    own = {key: value for key, value in options.set.items() if key.startswith("runtime.")}
    with RichProgress(output.err()) as progress:
        found = find_artifact(loading.model, **options.keywords(), load_format=running.load_format, progress=progress)
        session = Session(found, own, options.gpu, running.capture, running.engine, progress)
        report = session.report(workloads, profile=profile, command=shlex.join(["autodeploy", *sys.argv[1:]]))
    return report, None if before is None else compare(report.figures, before, tolerance)


def _deliver(report: Report, compared: Comparison | None, save: Path | None, as_json: bool) -> int:
    """Save and show a report; the exit code."""
    if save is not None:
        report.save(save)
    if as_json:
        output.print_json({**report.as_dict(), "baseline": compared.as_dict() if compared else None})
    else:
        output.out().print(report)
        if compared is not None:
            output.out().print(compared)
    return FAILED if compared is not None and compared.worse else 0
