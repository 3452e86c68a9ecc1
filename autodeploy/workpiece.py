"""A model between the plan of a build and its artifact: traced, calibrated, checked, compiled and judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from autodeploy.calibration.data import load_tokenizer
from autodeploy.calibration.model import calibrate_model
from autodeploy.calibration.request import Request
from autodeploy.calibration.result import Calibration
from autodeploy.discovery import kernel_table
from autodeploy.export import Traced, trace_model
from autodeploy.job import Job
from autodeploy.leftovers import describe
from autodeploy.optimizer import Compiled, compile_graph
from autodeploy.pipeline import PassReport, Stage
from autodeploy.progress import Progress, stage
from autodeploy.quality.assessment import Assessment
from autodeploy.quality.search import Limits
from autodeploy.quality.text import NOTHING, Text, read_text
from autodeploy.quality.verdict import is_quantized, is_rounded, judge, needed
from autodeploy.runtime.tokenizer import Tokenizer
from autodeploy.verify import Verification
from autodeploy.verify.model import model_samples, verify_passes
from autodeploy.weights.safetensors_source import SafetensorsSource
from autodeploy.weights.source import RandomSource, TensorSource


@dataclass(frozen=True)
class Wishes:
    """What a build is asked for beside its recipe; `text` is what losses are measured on."""

    load_format: str
    fuel: int | None
    verify: bool
    limits: Limits
    text: Text
    request: Request | None

    def fingerprint(self, job: Job) -> str:
        """A name for what `job` becomes with these; whether it is verified on the way changes nothing."""
        asked = None if self.request is None else [asdict(self.request), read_text(self.request.text).digest]
        return job.fingerprint(self.load_format, self.fuel, [asdict(self.limits), self.text.digest, asked])


@dataclass(frozen=True)
class Made:
    """A compiled graph, where its weights are, and the evidence for it, as JSON data by kind."""

    compiled: Compiled
    source: TensorSource
    evidence: Mapping[str, Any]


@dataclass(frozen=True)
class Workpiece:
    """The traced model of a job, and what every step of its build works on."""

    job: Job
    wishes: Wishes
    progress: Progress
    traced: Traced
    source: TensorSource
    calibration: Calibration | None

    @classmethod
    def of(cls, job: Job, wishes: Wishes, progress: Progress) -> Workpiece:
        """Trace the model of `job` and calibrate it, where that is wished for."""
        traced, source = trace_job(job, wishes.load_format, progress)
        folder, found = job.files.folder, None
        if wishes.request is not None:
            given = (traced, source, job.recipe, job.device, folder, load_tokenizer(folder), wishes.request)
            found = calibrate_model(*given, wishes.text, progress)
        return cls(job, wishes, progress, traced, source, found)

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The model's own, where it came with one; it takes seconds to load."""
        return load_tokenizer(self.job.files.folder)

    @cached_property
    def assessment(self) -> Assessment | str:
        """What judges the programs of the job, or why nothing can."""
        if self.wishes.text.name == NOTHING:
            return "--text none gives nothing to measure it on"
        if isinstance(self.source, RandomSource):
            return "the weights are random"
        if self.tokenizer is None:
            return "the model came without a tokenizer"
        resolve, device = self.job.resolve, self.job.device
        return Assessment(self.traced, self.source, resolve, device, self.tokenizer, self.wishes.text, self.progress)

    def verify(self) -> Verification:
        """Check every pass; VerificationError for one that moves the numbers further than it declares."""
        with stage(self.progress, "verify"):
            return verify_passes(
                self.traced,
                [one for _, one in self.job.recipe.passes],
                source=self.source,
                samples=model_samples(self.traced, self.tokenizer),
                device=self.job.device,
                kernels=kernel_table(self.job.device),
                fuel=self.wishes.fuel,
                calibration=self.calibration,
                observe=lambda _: self.progress.advance("verify"),
            )

    def search(self) -> None:
        """Lay over the job's recipe the fewest bytes that keep to the limits; InputError where nothing can measure."""
        found = needed(self.assessment, "--quantize auto").search(self.wishes.limits)
        self.job.adopt(found.assignment.settings())

    def compile(self) -> Compiled:
        """Run the passes of the job's recipe, and tell of each."""
        return compile_graph(
            self.traced,
            self.job.recipe,
            self.source,
            self.job.device,
            fuel=self.wishes.fuel,
            calibration=self.calibration,
            observe=self._report,
        )

    def loses(self, compiled: Compiled) -> bool:
        """Whether what is lost by quantization is to be measured: where it is ours, calibrated, or has a limit."""
        limited = self.wishes.limits != Limits()
        ours = self.calibration is not None or limited or is_rounded(compiled)
        return ours and is_quantized(compiled.graph_module.graph)

    def judge(self, compiled: Compiled) -> dict[str, Any] | None:
        """The quality of a compiled graph as JSON data; QualityError for one past the limits."""
        return judge(self.assessment, compiled, self.wishes.limits, self.progress)

    def _report(self, report: PassReport) -> None:
        self.progress.start(f"pass {report.name}")
        self.progress.finish(f"pass {report.name}", f"{report.matches} matches, {report.seconds:.1f} s")


def make(job: Job, wishes: Wishes, progress: Progress) -> Made:
    """Do all of a build but writing it. The result does not hold on to the traced model.

    Raises VerificationError for a pass that moves the numbers further than it declares, and QualityError for a program
    past the limits.
    """
    piece = Workpiece.of(job, wishes, progress)
    evidence: dict[str, Any] = {}
    if wishes.verify:
        evidence["verification"] = piece.verify().as_dict()
    if job.searches:
        piece.search()
    compiled = piece.compile()
    if piece.loses(compiled):
        evidence["quality"] = piece.judge(compiled)
    for sentence in (*describe(compiled.leftovers), *_told(compiled.history), *compiled.tuning.notes):
        progress.note(sentence)
    return Made(compiled, piece.source, evidence)


def _told(history: Iterable[PassReport]) -> list[str]:
    """What passes have to tell, but for TUNE, which tells of every measurement."""
    return [note for report in history if report.stage != Stage.TUNE.name for note in report.notes]


def trace_job(job: Job, load_format: str, progress: Progress) -> tuple[Traced, TensorSource]:
    """The traced model, and where its weights will be read from."""
    with stage(progress, "export"):
        traced = trace_model(job.config, job.dtype)
    for sentence in kernel_table(job.device).notes:
        progress.note(sentence)
    if load_format == "random":
        return traced, RandomSource.of(traced.model)
    return traced, SafetensorsSource(job.files.folder)
