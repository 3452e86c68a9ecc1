"""`autodeploy MODEL`: plan, build, answer a prompt, and say what to type next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from autodeploy.cli import checks, output, seam
from autodeploy.cli import options as opt
from autodeploy.cli.progress import RichProgress
from autodeploy.cli.spread import spread
from autodeploy.errors import VerificationError
from autodeploy.runtime.sampling_params import SamplingParams

SAMPLE_TOKENS = 48

Out = Annotated[
    Path | None,
    typer.Option(help="The artifact's folder.  [default: the model's name here]", rich_help_panel=opt.BUILDING),
]
Prompt = Annotated[
    str | None, typer.Option(help="Answer this prompt with the new program.", rich_help_panel=opt.OUTPUT)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and stop.", rich_help_panel=opt.OUTPUT)]
Fuel = Annotated[
    int | None,
    typer.Option(
        min=0, help="Stop rewriting after so many rewrites, to find a wrong one.", rich_help_panel=opt.BUILDING
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify",
        help="Check each pass against the graph before it; save nothing if one is wrong.",
        rich_help_panel=opt.BUILDING,
    ),
]
MaxKl = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="NATS",
        help="Fail if quantization moves the predictions further: KL divergence in nats a token.",
        rich_help_panel=opt.BUILDING,
    ),
]
MinAgreement = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        metavar="PART",
        help="Fail if for less of the tokens the likeliest stays the same.",
        rich_help_panel=opt.BUILDING,
    ),
]
TextFile = Annotated[
    str,
    typer.Option(
        "--text",
        metavar="FILE",
        help="What quantization is measured on: a .txt or .jsonl file, sample for ours, or none.",
        rich_help_panel=opt.BUILDING,
    ),
]


@spread()
def build(
    model: opt.Model,
    *,
    options: opt.BuildOptions,
    tp: opt.Tp = 1,
    pp: opt.Pp = 1,
    ep: opt.Ep = 1,
    calibrate: opt.Calibrate = None,
    method: opt.Method = None,
    load_format: opt.LoadFormat = "auto",
    fuel: Fuel = None,
    verify: Verify = False,
    max_kl: MaxKl = None,
    min_agreement: MinAgreement = None,
    text: TextFile = "sample",
    out: Out = None,
    capture: opt.Capture = None,
    prompt: Prompt = None,
    dry_run: DryRun = False,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Trace MODEL, run the recipe's passes over it, and save the program as a folder."""
    checks.refuse_later_options(tp, pp, ep)
    checks.check_capture(capture)
    checks.check_load_format(load_format)
    checks.check_out(out)
    if dry_run:
        _show_plan(model, options, as_json)
        return
    target = out or Path(default_folder(model))
    with RichProgress(output.err()) as progress:
        chosen = {**options.keywords(), "load_format": load_format, "fuel": fuel, "verify": verify}
        chosen |= {"max_kl": max_kl, "min_agreement": min_agreement, "text": text}
        chosen |= {"calibrate": calibrate, "method": method}
        built = _build(model, out=target, progress=progress, **chosen)
        answer = _answer(built.path, options.gpu, capture, prompt, progress) if prompt is not None else None
    _show(built, prompt, answer, as_json)


def _build(model: str, *, progress: RichProgress, **options: Any) -> seam.Built:
    """Build, and show the evidence when a pass is found to be wrong."""
    try:
        return seam.build(model, progress=progress, **options)
    except VerificationError as error:
        progress.console.print(error.finding)
        raise


def default_folder(model: str) -> str:
    """Where an artifact goes when nobody says: the last part of the model's name, with a suffix of ours."""
    name = model.rstrip("/").rpartition("/")[2].partition("@")[0].removeprefix("pkg:").removesuffix(".gguf")
    return f"{name}-autodeploy"


def _show_plan(model: str, options: opt.BuildOptions, as_json: bool) -> None:
    with RichProgress(output.err()) as progress:
        plan = seam.plan(model, **options.keywords(), progress=progress)
    if as_json:
        output.print_json(plan.as_dict())
        return
    console = output.out()
    console.print(output.plan_table(plan))
    console.print()
    output.print_outlook(console, plan)
    for sentence in plan.notes:
        console.print(f"• {sentence}", markup=False)


def _answer(path: Path, gpu: str, capture: str | None, prompt: str, progress: RichProgress) -> str:
    llm = seam.load_llm(str(path), gpu=gpu, capture=capture, progress=progress)
    (answer,) = llm.generate([prompt], SamplingParams(max_tokens=SAMPLE_TOKENS, temperature=0))
    text: str = answer.outputs[0].text
    return text


def _show(built: seam.Built, prompt: str | None, answer: str | None, as_json: bool) -> None:
    history = built.history
    following = f"autodeploy serve {shlex.quote(str(built.path))}"
    if as_json:
        result: dict[str, Any] = {"artifact": str(built.path), "recipe": built.recipe, "history": history}
        output.print_json(
            {**result, "verification": built.verification, "prompt": prompt, "answer": answer, "next": following}
        )
        return
    console = output.out()
    console.print(output.history_table(history))
    if built.verification is not None:
        console.print(seam.verification(built.verification))
    if prompt is not None:
        console.print(f"\n{prompt}", end="", markup=False)
        console.print(f"{answer}\n", style="bold", markup=False)
    console.print(f"Saved in {built.path}. Next: {following}", markup=False, soft_wrap=True)
