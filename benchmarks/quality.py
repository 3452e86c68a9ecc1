"""What quantization costs: perplexity, KL divergence and agreement of a model's quantized programs on real text.

usage: python benchmarks/quality.py MODEL [NAME=FOLDER ...] --text FILE [--tokens N] [--only SCHEME ...] [--auto]
       [--modelopt SCHEME ...] [--device cuda] [--out FILE.json]

The unquantized program is the reference. Without `--only`, the schemes that need no calibration are measured; what
calibrates the others is our sample, so that the text must not hold it. NAME=FOLDER adds a checkpoint that is quantized
already, such as `autodeploy quantize` writes, `--auto` what `--quantize auto` finds, and `--modelopt` what modelopt
itself makes of the model. Each row is printed and kept when it is known.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from machine import context
from quality_modelopt import CONFIGS, simulate
from quality_programs import PLAIN, WAYS, Source, Way

from autodeploy.calibration.data import calibration_windows
from autodeploy.program import Program
from autodeploy.quality import Quality, Text, read_text
from autodeploy.quality.compare import Predict, compare_predictions, predict

WINDOW_LEN = 512
AT_ONCE = {"cpu": 1, "cuda": 8}
"""How many windows share a step: a GPU has the memory, and waits for the host otherwise."""
Row = tuple[str, float | None, Callable[[], Predict]]
"""A name, the bits of a weight where they were searched for, and what makes the program."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("checkpoints", nargs="*", metavar="NAME=FOLDER")
    parser.add_argument("--text", default="sample")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--only", nargs="*", choices=WAYS, default=[*PLAIN, "fp8 cache"])
    parser.add_argument("--auto", action="store_true")
    parser.add_argument("--modelopt", nargs="*", choices=CONFIGS, default=[])
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def rows(asked: argparse.Namespace, model: Source) -> Iterator[Row]:
    """What is to be measured, in order; nothing is made before its turn."""

    def ours(way: Way) -> Predict:
        return predicting(model.program(way))

    def stored(folder: str) -> Predict:
        return predicting(Source(folder, asked.dtype, asked.device, quantize=None).program(Way()))

    for name in asked.only:
        yield name, None, partial(ours, WAYS[name])
    if asked.auto:
        found = model.search()
        yield "auto", round(found.bits, 3), partial(ours, Way(found.settings()))
    for name, _, folder in (one.partition("=") for one in asked.checkpoints):
        yield name, None, partial(stored, folder)
    windows = calibration_windows("sample", Text("", ()), model.tokenizer) if asked.modelopt else []
    for name in asked.modelopt:
        yield f"modelopt {name}", None, partial(simulate, model.job.files.folder, name, windows, asked.device)


def predicting(program: Program) -> Predict:
    """A program as something that predicts."""
    return partial(predict, program)


def kept(name: str, bits: float | None, quality: Quality) -> dict[str, Any]:
    """A row of the JSON."""
    return {"scheme": name, **quality.as_dict(), "increase_percent": round(100 * quality.increase, 3), "bits": bits}


def main() -> None:
    """Measure one after the other, print each, and keep what is known so far."""
    asked = arguments()
    text, model = read_text(asked.text), Source(asked.model, asked.dtype, asked.device)
    windows = text.windows(model.tokenizer, WINDOW_LEN, asked.tokens // WINDOW_LEN)
    reference = predicting(model.program(Way()))
    result: dict[str, Any] = {**context(), "model": asked.model, "dtype": asked.dtype}
    result |= {"text": text.name, "text_sha256": text.digest, "tokens": len(windows) * WINDOW_LEN, "rows": []}
    for name, bits, make in rows(asked, model):
        start = time.perf_counter()
        quality = compare_predictions(reference, make(), windows, at_once=AT_ONCE[asked.device.type])
        bits_said = "" if bits is None else f", {bits} bits a weight"
        print(f"{name}: {quality}{bits_said} ({time.perf_counter() - start:.1f} s)", flush=True)
        result["rows"].append(kept(name, bits, quality))
        if asked.out is not None:
            asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
