"""The programs whose quality `quality.py` measures: one model under many settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoTokenizer

from autodeploy.calibration.model import calibrate_model
from autodeploy.calibration.request import Request
from autodeploy.job import Job
from autodeploy.optimizer import compile_graph, make_program
from autodeploy.program import Program
from autodeploy.progress import NullProgress
from autodeploy.quality import Text, read_text
from autodeploy.quality.assessment import Assessment
from autodeploy.quality.search import Assignment, Limits
from autodeploy.quantization.option import TECHNIQUES
from autodeploy.workpiece import trace_job

UNTUNED = {"passes.tune_kernels": False}
SEARCHED = Limits(max_kl=0.03)


@dataclass(frozen=True)
class Way:
    """How a program is quantized: settings of the recipe, and the calibration that they need."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    request: Request | None = None


def _scheme(name: str, request: Request | None = None) -> Way:
    return Way({"passes.mark_precision.scheme": name}, request)


def _cache(format: str, request: Request | None = None) -> Way:
    return Way({"passes.quantize_cache.format": format}, request)


SOME = {"match": "*", "layers": "10-13", "scheme": "int4_g64"}
PLAIN = ("int8", "fp8", "int8_dynamic", "fp8_weights", "int4_g64", "int4_g32", "int4_zeros_g32", "nvfp4", "mxfp4")
WAYS: Mapping[str, Way] = {
    **{name: _scheme(name) for name in PLAIN},
    "fp8 cache": _cache("fp8"),
    "fp8 cache, calibrated": _cache("fp8", Request(cache="fp8", method="mse")),
    "int8 cache": _cache("int8", Request(cache="int8")),
    "fp8_tensor static": _scheme("fp8_tensor", Request(quantize="fp8_tensor")),
    **{name: _scheme(one.scheme, Request(quantize=name)) for name, one in TECHNIQUES.items()},
    "gptq_g64 of layers 10-13": Way({"passes.mark_precision.rules": [SOME]}, Request(quantize="gptq_g64")),
}
"""What can be measured, by the names that rows have."""


class Source:
    """A model, traced once, of which programs are made under several settings.

    They are compiled for the CPU, and computed on `device`; elsewhere than on the CPU that is by the references of the
    operators. What calibrates, and what the search looks at, is our sample. `quantize` is none for a model that is not
    quantized yet, and None for one that is.
    """

    def __init__(self, model: str, dtype: str, device: torch.device, quantize: str | None = "none") -> None:
        options: dict[str, Any] = {"recipe": "auto", "workload": "balanced", "values": UNTUNED, "weights": True}
        self.job = Job(model, gpu="cpu", dtype=dtype, quantize=quantize, **options)
        self.device = device
        self.traced, self.source = trace_job(self.job, "auto", NullProgress())
        self.tokenizer: Any = AutoTokenizer.from_pretrained(self.job.files.folder)

    def program(self, way: Way) -> Program:
        """A program that is quantized in this way."""
        recipe, found = self.job.resolve(way.settings), None
        if way.request is not None:
            given = (self.traced, self.source, recipe, self.device, self.job.files.folder, self.tokenizer, way.request)
            found = calibrate_model(*given, Text("none", ()), NullProgress())
        compiled = compile_graph(self.traced, recipe, self.source, self.job.device, calibration=found)
        return make_program(compiled, self.source, self.device)

    def search(self) -> Assignment:
        """What `--quantize auto` finds within its own limit."""
        given = (self.traced, self.source, self.job.resolve, self.device, self.tokenizer, read_text())
        return Assessment(*given, NullProgress()).search(SEARCHED).assignment
