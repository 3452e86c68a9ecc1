"""What a build loses: its program next to the unquantized one, on text that calibrated nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch.fx import Graph

from autodeploy.choosing import Recipe
from autodeploy.export import Traced
from autodeploy.optimizer import Compiled, Optimized, compile_graph, make_program
from autodeploy.program import Program
from autodeploy.progress import Progress, stage
from autodeploy.quality.compare import Quality, compare
from autodeploy.quality.search import Assignment, Found, Limits, search
from autodeploy.quality.sensitivity import APART, Trials, measure_layers, measure_sensitivities, schemes_of
from autodeploy.quality.text import Text
from autodeploy.quantization import SCHEMES
from autodeploy.runtime.tokenizer import Tokenizer
from autodeploy.weights.source import TensorSource

WINDOW_LEN = 512
NUM_WINDOWS = 4
SENSITIVITY_TOKENS = 512
CANDIDATES = ("int4_zeros", "int4_zeros_g64", "int4_zeros_g32", "int8")
"""What `--quantize auto` chooses from, besides leaving a projection as it is: weights alone, for they are the bytes."""
UNQUANTIZED: Mapping[str, object] = {"passes.mark_precision": False, "passes.tune_kernels": False}
SHOWN: Mapping[str, object] = {"passes.quantize_linears": False, "passes.tune_kernels": False}
"""The settings under which projections are marked with their schemes, and left as they are."""


class Assessment:
    """Programs of one model next to the unquantized one, on the second half of a text.

    `resolve` gives the recipe of a build with some settings laid over it. Programs run on `device`, or on the CPU where
    that is not here.
    """

    def __init__(
        self,
        traced: Traced,
        source: TensorSource,
        resolve: Callable[[Mapping[str, object]], Recipe],
        device: torch.device,
        tokenizer: Tokenizer,
        text: Text,
        progress: Progress,
    ) -> None:
        self._traced = traced
        self._source = source
        self._resolve = resolve
        self._device = device if device.type == "cpu" or torch.cuda.is_available() else torch.device("cpu")
        self._tokenizer = tokenizer
        self.text_name = text.name
        self._text = text.halves()[1]
        self._progress = progress

    def quality(self, compiled: Compiled) -> Quality:
        """Of a compiled graph, over about two thousand tokens. Holds the weights of both programs."""
        windows = self._windows(WINDOW_LEN, NUM_WINDOWS)
        with stage(self._progress, "quality", len(windows)):
            program = make_program(compiled, self._source, self._device)
            return compare(self._reference, program, windows, lambda _: self._progress.advance("quality"))

    def layers(self) -> dict[str, float]:
        """What each layer of the build loses by itself, in nats a token, its weights alone rounded."""
        trials, marked = self._trials(SHOWN)
        schemes = schemes_of(marked)
        with stage(self._progress, "sensitivity"):
            return measure_layers(trials, schemes, lambda _: self._progress.advance("sensitivity"))

    def search(self, limits: Limits) -> Found:
        """The assignment of the fewest bytes within `limits`; InputError when there is none."""
        trials, _ = self._trials(UNQUANTIZED)
        schemes = {name: SCHEMES[name] for name in CANDIDATES}
        with stage(self._progress, "sensitivity", len(trials.units)):
            found = measure_sensitivities(trials, schemes, lambda _: self._progress.advance("sensitivity"))
        return search(found, limits, self._measure, self._tell)

    def _trials(self, settings: Mapping[str, object]) -> tuple[Trials, Graph]:
        apart = self._compile({**settings, **APART})
        optimized = Optimized(**vars(apart), traced=self._traced, source=self._source, device=self._device)
        windows = self._windows(WINDOW_LEN // 2, SENSITIVITY_TOKENS // (WINDOW_LEN // 2))
        return Trials(optimized, self._device, windows), optimized.graph_module.graph

    def _measure(self, assignment: Assignment) -> Quality:
        return self.quality(self._compile(assignment.settings()))

    def _tell(self, found: Found) -> None:
        self._progress.note(f"{found.assignment.bits:.2f} bits a weight: {found.quality}")

    @cached_property
    def _reference(self) -> Program:
        return make_program(self._compile(UNQUANTIZED), self._source, self._device)

    def _compile(self, settings: Mapping[str, object]) -> Compiled:
        return compile_graph(self._traced, self._resolve(settings), self._source, self._device)

    def _windows(self, length: int, most: int) -> Sequence[Sequence[int]]:
        limit = self._traced.max_model_len
        return self._text.windows(self._tokenizer, min(length, limit) if limit else length, most)
