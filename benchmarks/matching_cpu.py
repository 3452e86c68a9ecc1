"""What matching costs on a model of many layers: `python benchmarks/matching_cpu.py --out FILE.json`.

Llama of the 70B model's shape, on the meta device, through the whole default recipe with all patterns. The figures are
seconds of CPU time, so that other work on the machine counts little: of all passes, with the checks and the clean-up
after each, and of the patterns alone. Tracing is not in them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from machine import context
from transformers import LlamaConfig

from autodeploy.choosing import resolve_settings
from autodeploy.export import Traced, trace_model
from autodeploy.hardware import choose_gpu
from autodeploy.optimizer import compile_graph
from autodeploy.rewrite import apply_rules
from autodeploy.weights.source import RandomSource

LAYERS = (10, 20, 40, 80)
CPU = torch.device("cpu")


class Stopwatch:
    """A function that counts the CPU time spent in it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.seconds = 0.0

    def __call__(self, *args: Any) -> Any:
        begin = time.process_time()
        result = self.function(*args)
        self.seconds += time.process_time() - begin
        return result


def trace_llama(num_layers: int) -> Traced:
    config = LlamaConfig(
        num_hidden_layers=num_layers,
        hidden_size=8192,
        intermediate_size=28672,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    return trace_model(config, torch.bfloat16)


def measure(num_layers: int) -> dict[str, Any]:
    traced = trace_llama(num_layers)
    recipe = resolve_settings(traced.config, choose_gpu("cpu"), recipe="auto", workload="balanced", values={})
    source = RandomSource.of(traced.model)
    rules = Stopwatch(apply_rules)
    with patch("autodeploy.pipeline.apply_rules", rules):
        begin = time.process_time()
        compiled = compile_graph(traced, recipe, source, CPU)
        seconds = time.process_time() - begin
    return {
        "layers": num_layers,
        "nodes": len(traced.graph_module.graph.nodes),
        "rewrites": sum(report.matches for report in compiled.history),
        "all_passes_s": round(seconds, 2),
        "patterns_s": round(rules.seconds, 2),
        "all_passes_ms_per_layer": round(1e3 * seconds / num_layers, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=LAYERS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    measure(2)  # what is imported and compiled when it is first used
    rows = []
    for num_layers in options.layers:
        rows.append(measure(num_layers))
        print(rows[-1], flush=True)
    if options.out:
        options.out.write_text(json.dumps({**context(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
