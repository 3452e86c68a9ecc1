"""The options that commands share, and those that most of them take, together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from autodeploy.cli import checks
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


@dataclass(frozen=True)
class BuildOptions:
    """What decides how a program is made. A command that takes one has its fields as options, see `spread`.

    Raises InputError, or one of its kinds, for a value that is wrong for any model.
    """

    gpu: Gpu = "auto"
    workload: Workload = "balanced"
    recipe: Recipe = "auto"
    dtype: Dtype = "auto"
    quantize: Quantize = None
    quantize_head: QuantizeHead = None
    kv_cache: KvCache = None
    settings: Set = None
    max_batch: MaxBatch = None
    max_tokens: MaxTokens = None

    def __post_init__(self) -> None:
        checks.check_dtype(self.dtype)
        checks.check_scheme(self.quantize)
        checks.check_head(self.quantize_head)
        checks.check_cache(self.kv_cache)
        parse_settings(self.settings or ())

    @property
    def set(self) -> dict[str, Any]:
        """The settings: those of `--set`, which win, and those that have options of their own."""
        short = {
            "runtime.max_batch_size": self.max_batch,
            "runtime.max_num_tokens": self.max_tokens,
            "passes.mark_precision.head": self.quantize_head,
            "passes.quantize_cache.format": self.kv_cache,
        }
        given = {key: value for key, value in short.items() if value is not None}
        return {**given, **parse_settings(self.settings or ())}

    def keywords(self) -> dict[str, Any]:
        """The keyword arguments that `build`, `plan` and `LLM` share."""
        named = ("gpu", "workload", "recipe", "dtype", "quantize", "set")
        return {name: getattr(self, name) for name in named}


@dataclass(frozen=True)
class RunOptions:
    """How a program is loaded and run. Raises InputError, or one of its kinds, for a value that does not exist."""

    load_format: LoadFormat = "auto"
    capture: Capture = None
    engine: Engine = "auto"

    def __post_init__(self) -> None:
        checks.check_load_format(self.load_format)
        checks.check_capture(self.capture)

    def keywords(self) -> dict[str, Any]:
        """The keyword arguments of `LLM`."""
        return dict(vars(self))
