"""The options that commands share, and the checks of their values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from autodeploy.errors import InputError, UnsupportedError, nearest
from autodeploy.layers import parse_settings

MODEL = "A Hub id (org/name, org/name@revision), a model folder, a .gguf file, or pkg:NAME"
PLACE, BUILDING, RUNNING, OUTPUT = "Where it will run", "How it is built", "How it runs", "What is shown"

Model = Annotated[str, typer.Argument(metavar="MODEL", help=f"{MODEL}.", show_default=False)]
ModelOrArtifact = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|ARTIFACT",
        help=f"{MODEL}; or what `build` made: a folder, or ORG/NAME on the Hub.",
        show_default=False,
    ),
]
Gpu = Annotated[str, typer.Option(help="auto, a name that `autodeploy gpus` lists, or a file.", rich_help_panel=PLACE)]
Workload = Annotated[str, typer.Option(help="balanced, latency or throughput.", rich_help_panel=PLACE)]
Recipe = Annotated[
    str, typer.Option(help="auto, a name that `autodeploy recipes` lists, or a file.", rich_help_panel=BUILDING)
]
Dtype = Annotated[str, typer.Option(help="auto, bf16, fp16 or fp32.", rich_help_panel=BUILDING)]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value: runtime.page_size=8, passes.fuse_qkv=off. Can be repeated.",
        rich_help_panel=BUILDING,
    ),
]
LoadFormat = Annotated[
    str, typer.Option(help="auto, or random for random weights of the model's shapes.", rich_help_panel=BUILDING)
]
Capture = Annotated[
    str | None,
    typer.Option(help="none, compile, or cudagraph.  [default: what pays on the device]", rich_help_panel=RUNNING),
]
Engine = Annotated[
    str,
    typer.Option(help="inline, process, or auto: a process of its own where there is a GPU.", rich_help_panel=RUNNING),
]
MaxBatch = Annotated[
    int | None,
    typer.Option(min=1, help="The most requests that run at once (runtime.max_batch_size).", rich_help_panel=RUNNING),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(min=1, help="The token budget of one step (runtime.max_num_tokens).", rich_help_panel=RUNNING),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        metavar="SCHEME",
        help="none, fp8, int8, int4 or another scheme of docs/quantization.md; fastest, auto.  [default: the recipe's]",
        rich_help_panel=BUILDING,
    ),
]
QuantizeHead = Annotated[
    str | None,
    typer.Option(
        metavar="SCHEME",
        help="int8, fp8 or another scheme for the projection to logits, which --quantize leaves as it is"
        " (passes.mark_precision.head).  [default: the recipe's]",
        rich_help_panel=BUILDING,
    ),
]
KvCache = Annotated[
    str | None,
    typer.Option(
        metavar="FORMAT",
        help="auto (the model's dtype), fp8, or int8 (passes.quantize_cache.format).  [default: the recipe's]",
        rich_help_panel=BUILDING,
    ),
]
Calibrate = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Find static scales on a .txt or .jsonl file, or our sample; awq, gptq and smoothquant always do.",
        rich_help_panel=BUILDING,
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        help="How static scales are found: max, percentile, mse or entropy.  [default: max]", rich_help_panel=BUILDING
    ),
]
Tp = Annotated[int, typer.Option(min=1, help="GPUs a layer is split over; 1 for now.", rich_help_panel=PLACE)]
Pp = Annotated[int, typer.Option(min=1, help="GPUs the layers are spread over; 1 for now.", rich_help_panel=PLACE)]
Ep = Annotated[int, typer.Option(min=1, help="GPUs the experts are spread over; 1 for now.", rich_help_panel=PLACE)]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, the rest on stderr.", rich_help_panel=OUTPUT)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=OUTPUT)]

DTYPES = ("auto", "bf16", "fp16", "fp32")
CACHES = ("auto", "fp8", "int8")
CAPTURES = ("none", "compile", "cudagraph")
LATER_CAPTURES = ("tensorrt",)


@dataclass(frozen=True)
class BuildOptions:
    """What decides how a program is made, checked: the keywords that `build`, `plan` and `LLM` share."""

    gpu: str
    dtype: str
    recipe: str
    workload: str
    quantize: str | None = None
    set: dict[str, Any] = field(default_factory=dict)

    def keywords(self) -> dict[str, Any]:
        """The options as keyword arguments."""
        return dict(vars(self))


def build_options(
    gpu: str,
    dtype: str,
    recipe: str,
    workload: str,
    quantize: str | None,
    settings: Iterable[str] | None,
    max_batch: int | None,
    max_tokens: int | None,
    *,
    quantize_head: str | None = None,
    kv_cache: str | None = None,
) -> BuildOptions:
    """Check the options that need no model, and put the short forms of settings under `--set`'s, which win."""
    check_choice("--dtype", dtype, DTYPES)
    if quantize is not None:
        check_scheme(quantize)
    if quantize_head is not None:
        check_head(quantize_head)
    if kv_cache is not None:
        check_choice("--kv-cache", kv_cache, CACHES)
    formats = {"passes.mark_precision.head": quantize_head, "passes.quantize_cache.format": kv_cache}
    short = {"runtime.max_batch_size": max_batch, "runtime.max_num_tokens": max_tokens, **formats}
    given = {key: value for key, value in short.items() if value is not None}
    return BuildOptions(gpu, dtype, recipe, workload, quantize, {**given, **parse_settings(settings or ())})


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """Raise InputError unless `value` is one of `choices`."""
    known = tuple(choices)
    if value not in known:
        raise InputError(f"{option} {value}: not a choice; {nearest(value, known)}")


def check_scheme(quantize: str) -> None:
    """Raise RecipeError, with the nearest name, for a scheme that does not exist."""
    from autodeploy.quantization import option  # it needs torch, which `--help` does without

    if quantize not in (option.AUTO, option.FASTEST):
        option.quantize_values(quantize)


def check_head(scheme: str) -> None:
    """Raise RecipeError, with the nearest name, for a scheme that the head cannot have."""
    from autodeploy.quantization import find_scheme  # as above

    find_scheme(scheme, "--quantize-head")


def check_capture(capture: str | None) -> None:
    """Raise InputError for a way of capturing that does not exist, or not yet."""
    if capture in LATER_CAPTURES:
        raise UnsupportedError(
            f"--capture {capture}: this version does not support it yet; use none, compile or cudagraph"
        )
    if capture is not None:
        check_choice("--capture", capture, CAPTURES)


def check_load_format(load_format: str) -> None:
    """Raise InputError for a source of weights that does not exist."""
    check_choice("--load-format", load_format, ("auto", "random"))


def refuse_later_options(tp: int, pp: int, ep: int) -> None:
    """Raise UnsupportedError for what a later version will do."""
    for option, value in (("--tp", tp), ("--pp", pp), ("--ep", ep)):
        if value > 1:
            raise UnsupportedError(f"{option} {value}: this version runs on one device; use 1")


def check_out(out: Path | None) -> None:
    """Raise InputError when `out` is something that a build must not write over."""
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: this is a file, and a folder is expected")
