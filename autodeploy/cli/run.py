"""`autodeploy generate` and `autodeploy serve`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from autodeploy.cli import options as opt
from autodeploy.cli import output, seam
from autodeploy.cli.progress import RichProgress
from autodeploy.cli.spread import spread
from autodeploy.errors import InputError, UnsupportedError
from autodeploy.runtime.sampling_params import SamplingParams

SAMPLING, LISTENING = "How tokens are chosen", "Where it listens"

Prompts = Annotated[list[str], typer.Option("--prompt", help="Can be repeated; - reads stdin.", show_default=False)]


@spread(without=("max_tokens",))  # here those of an answer
def generate(
    model: opt.ModelOrArtifact,
    prompt: Prompts,
    *,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of each answer.", rich_help_panel=SAMPLING)] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", rich_help_panel=SAMPLING)] = 0.0,
    top_p: Annotated[float, typer.Option(help="Keep this much probability.", rich_help_panel=SAMPLING)] = 1.0,
    top_k: Annotated[int, typer.Option(help="Keep so many tokens; 0 is all.", rich_help_panel=SAMPLING)] = 0,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.", rich_help_panel=SAMPLING)] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End at this text.", rich_help_panel=SAMPLING)] = None,
    options: opt.BuildOptions,
    running: opt.RunOptions,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Answer prompts with MODEL, or with the program in ARTIFACT."""
    params = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, stop=stop or None
    )
    prompts = [sys.stdin.read() if one == "-" else one for one in prompt]
    llm = _load(model, options, running)
    answers = llm.generate(prompts, params)
    if as_json:
        output.print_json({"model": model, "answers": [asdict(answer) for answer in answers]})
        return
    for text, answer in zip(prompts, answers, strict=True):
        console = output.out()
        console.print(text, end="", markup=False, soft_wrap=True)
        console.print(answer.outputs[0].text, style="bold", markup=False, soft_wrap=True)


@spread()
def serve(
    model: opt.ModelOrArtifact,
    *,
    host: Annotated[str, typer.Option(help="The address to listen on.", rich_help_panel=LISTENING)] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.", rich_help_panel=LISTENING)] = 8000,
    served_name: Annotated[
        str | None,
        typer.Option(help="What clients call the model.  [default: as given here]", rich_help_panel=LISTENING),
    ] = None,
    options: opt.BuildOptions,
    running: opt.RunOptions,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Serve MODEL, or the program in ARTIFACT, over HTTP as OpenAI's API does."""
    try:
        from autodeploy.runtime.server import listen, run
    except ModuleNotFoundError as error:
        raise UnsupportedError(f"serve needs {error.name}: pip install 'fx-autodeploy[serve]'") from error
    try:
        socket = listen(host, port)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {error.strerror}; --port 0 takes a free one") from error
    with socket:
        llm = _load(model, options, running)
        name = served_name or _name(model)
        url = f"http://{host}:{socket.getsockname()[1]}/v1"
        if as_json:
            output.print_json({"model": name, "url": url})
        else:
            output.err().print(f"Serving {name} on {url}; Ctrl-C stops it.", markup=False, soft_wrap=True)
        sys.stdout.flush()
        run(llm.engine, name, socket)


def _load(model: str, options: opt.BuildOptions, running: opt.RunOptions) -> seam.Answering:
    with RichProgress(output.err()) as progress:
        return seam.load_llm(model, **options.keywords(), **running.keywords(), progress=progress)


def _name(model: str) -> str:
    """What clients call the model: its Hub id as it is, a folder by its last part."""
    path = Path(model)
    return path.resolve().name if path.is_dir() else model
