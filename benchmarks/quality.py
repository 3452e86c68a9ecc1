"""What quantization costs: perplexity, KL divergence and agreement of a model's quantized programs on real text.

usage: python benchmarks/quality.py MODEL [NAME=FOLDER ...] --text FILE [--tokens N] [--auto] [--out FILE.json]

The schemes that need no calibration are made here; NAME=FOLDER adds a checkpoint that is quantized already, such as
`autodeploy quantize` writes. `--auto` adds what `--quantize auto` finds. The unquantized program is the reference.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from machine import context
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from transformers import AutoTokenizer

from autodeploy.job import Job, trace_job
from autodeploy.optimizer import compile_graph, make_program
from autodeploy.program import Program
from autodeploy.progress import NullProgress
from autodeploy.quality.assessment import Assessment
from autodeploy.quality.compare import Quality, compare_all
from autodeploy.quality.search import Limits
from autodeploy.quality.text import Text, read_text

WINDOW_LEN = 512
SCHEMES: Mapping[str, Mapping[str, Any]] = {
    "int8": {"passes.mark_precision.scheme": "int8"},
    "fp8": {"passes.mark_precision.scheme": "fp8"},
    "int8_dynamic": {"passes.mark_precision.scheme": "int8_dynamic"},
    "int4_g32": {"passes.mark_precision.scheme": "int4_g32"},
    "int4_g64": {"passes.mark_precision.scheme": "int4_g64"},
    "fp8 cache": {"passes.quantize_cache.format": "fp8"},
}


class Source:
    """A model, traced once, of which programs are made under several settings."""

    def __init__(self, model: str, dtype: str) -> None:
        options: dict[str, Any] = {"recipe": "auto", "workload": "balanced", "values": {}, "weights": True}
        self.job = Job(model, gpu="cpu", dtype=dtype, **options)
        self.traced, self.source = trace_job(self.job, "auto", NullProgress())

    def program(self, settings: Mapping[str, Any]) -> Program:
        """A program for the CPU."""
        compiled = compile_graph(self.traced, self.job.resolve(settings), self.source, self.job.device)
        return make_program(compiled, self.source, self.job.device)

    def auto(self, text: Text) -> tuple[Mapping[str, Any], float]:
        """The settings that `--quantize auto` finds within its own limit, and their bits a weight."""
        tokenizer = AutoTokenizer.from_pretrained(self.job.files.folder)
        progress = NullProgress()
        judge = Assessment(self.traced, self.source, self.job.resolve, self.job.device, tokenizer, text, progress)
        found = judge.search(Limits(max_kl=0.03))
        return found.assignment.settings(), found.assignment.bits


def rows(found: Mapping[str, Quality], bits: Mapping[str, float]) -> list[dict[str, Any]]:
    """What is kept of each program."""
    return [
        {"scheme": name, **one.as_dict(), "increase_percent": round(100 * one.increase, 3), "bits": bits.get(name)}
        for name, one in found.items()
    ]


def table(found: Mapping[str, Quality]) -> Table:
    """The programs, one a row."""
    shown = Table("scheme", "perplexity", "increase", "KL, nats a token", "agreement")
    for name, one in found.items():
        cells = (f"{one.perplexity:.3f}", f"{one.increase:+.2%}", f"{one.kl:.4f}", f"{one.agreement:.1%}")
        shown.add_row(name, *cells)
    return shown


def main() -> None:
    """Measure, print a table, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("checkpoints", nargs="*", metavar="NAME=FOLDER")
    parser.add_argument("--text", default="sample")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--auto", action="store_true")
    parser.add_argument("--only", nargs="*", choices=SCHEMES, default=list(SCHEMES))
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    text, model = read_text(asked.text), Source(asked.model, asked.dtype)
    settings, bits = {name: SCHEMES[name] for name in asked.only}, {}
    if asked.auto:
        settings["auto"], bits["auto"] = model.auto(text)
    programs = {name: model.program(values) for name, values in settings.items()}
    for name, _, folder in (one.partition("=") for one in asked.checkpoints):
        programs[name] = Source(folder, asked.dtype).program({})
    tokenizer: Any = AutoTokenizer.from_pretrained(model.job.files.folder)
    windows = text.windows(tokenizer, WINDOW_LEN, asked.tokens // WINDOW_LEN)
    reference = model.program({})
    with Progress(transient=True) as progress:
        task = progress.add_task("tokens", total=len(windows) * WINDOW_LEN)
        found = compare_all(reference, programs, windows, lambda count: progress.advance(task, count))
    Console().print(table(found))
    if asked.out is not None:
        result = {"model": asked.model, "dtype": asked.dtype, "text": text.name, "text_sha256": text.digest}
        asked.out.write_text(json.dumps({**context(), **result, "rows": rows(found, bits)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
