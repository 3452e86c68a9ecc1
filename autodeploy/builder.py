"""From a model reference to an artifact."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from autodeploy import artifact
from autodeploy.artifact import Artifact
from autodeploy.calibration.data import load_tokenizer
from autodeploy.calibration.model import calibrate_model
from autodeploy.calibration.request import Request
from autodeploy.calibration.result import Calibration
from autodeploy.discovery import kernel_table
from autodeploy.errors import ArtifactError
from autodeploy.export import Traced
from autodeploy.hub.checkpoint import describe_checkpoint
from autodeploy.job import Job, trace_job
from autodeploy.leftovers import describe
from autodeploy.optimizer import Compiled, compile_graph
from autodeploy.pipeline import PassReport, Stage
from autodeploy.plan import Plan, checkpoint_decisions
from autodeploy.progress import NullProgress, Progress, stage
from autodeploy.quality.assessment import Assessment
from autodeploy.quality.search import Limits
from autodeploy.quality.text import NOTHING, SAMPLE, Text, read_text
from autodeploy.quality.verdict import is_quantized, is_rounded, judge, needed
from autodeploy.verify import Verification
from autodeploy.verify.model import model_samples, verify_passes
from autodeploy.weights.source import RandomSource, TensorSource

_NONE: Mapping[str, Any] = MappingProxyType({})


def plan(
    model: str,
    *,
    gpu: str = "auto",
    dtype: str = "auto",
    recipe: str = "auto",
    workload: str = "balanced",
    quantize: str | None = None,
    set: Mapping[str, Any] = _NONE,  # noqa: A002 (the command line's name)
    progress: Progress | None = None,
) -> Plan:
    """Decide everything that a build would, and build nothing; a Hub model's weights are not downloaded."""
    options = {"gpu": gpu, "dtype": dtype, "recipe": recipe, "workload": workload}
    progress = progress or NullProgress()
    with stage(progress, "resolve"):
        job = Job(model, **options, quantize=quantize, values=set, weights=False, progress=progress)
    with stage(progress, "plan"):
        found, files = job.plan(), checkpoint_decisions(describe_checkpoint(job.files), job.origin["stored"])
        return replace(found, decisions=(*found.decisions, *files), outlook=job.outlook())


def build(
    model: str,
    *,
    out: str | Path,
    gpu: str = "auto",
    dtype: str = "auto",
    recipe: str = "auto",
    workload: str = "balanced",
    quantize: str | None = None,
    set: Mapping[str, Any] = _NONE,  # noqa: A002 (the command line's name)
    load_format: str = "auto",
    fuel: int | None = None,
    verify: bool = False,
    max_kl: float | None = None,
    min_agreement: float | None = None,
    text: str = SAMPLE,
    calibrate: str | None = None,
    method: str | None = None,
    progress: Progress | None = None,
) -> Artifact:
    """Trace a model, run a recipe's passes over it, and write the program to the folder `out`.

    An artifact of the same model, recipe and versions that is there already is checked and kept. `load_format` "random"
    takes random weights instead of the checkpoint's. With `verify` every pass is checked first, and what was found is
    kept in the artifact. `quantize` names a scheme, or "auto" for the fewest bytes that keep to the limits `max_kl`
    (nats a token) and `min_agreement` (a part of tokens). What quantization costs on `text` (a file, "sample" for ours
    or "none") is measured and kept in the artifact. `calibrate` names the text (a file, or "sample") that static scales
    are found on, by a `method` (max, percentile, mse or entropy); awq, gptq and smoothquant take the sample without it.

    Raises InputError (or one of its kinds) for a model, option or folder that is not valid; VerificationError for a
    pass that moves the numbers further than it declares, and QualityError for a program past the limits, leaving
    nothing.
    """
    progress = progress or NullProgress()
    out = Path(out)
    artifact.check_target(out)
    with stage(progress, "resolve"):
        job = Job(
            model,
            gpu=gpu,
            dtype=dtype,
            recipe=recipe,
            workload=workload,
            quantize=quantize,
            values=set,
            weights=load_format != "random",
            progress=progress,
        )
    progress.plan(job.plan())
    limits, prose = Limits(max_kl, min_agreement), read_text(text)
    request = job.calibrates(calibrate, method)
    asked = None if request is None else [asdict(request), read_text(request.text).digest]
    fingerprint = job.fingerprint(load_format, fuel, [asdict(limits), prose.digest, asked])
    kept = _same(out, fingerprint)
    if kept is not None and (kept.verification or not verify):
        progress.note(f"{out} holds this very build already; it was checked and kept")
        return kept
    traced, source = trace_job(job, load_format, progress)
    details: dict[str, Any] = {"fingerprint": fingerprint, "gpu": job.choice.gpu.name, "model": job.origin}
    calibration = _calibration(job, traced, source, request, prose, progress)
    if verify:
        details["verification"] = _verify(job, traced, source, fuel, calibration, progress).as_dict()
    assess = cache(partial(_assessment, job, traced, source, prose, progress))
    if job.searches:
        job.adopt(needed(assess(), "--quantize auto").search(limits).assignment.settings())
    options: dict[str, Any] = {"fuel": fuel, "calibration": calibration, "observe": _reporter(progress)}
    compiled = compile_graph(traced, job.recipe, source, job.device, **options)
    rounded = calibration is not None or limits != Limits() or is_rounded(compiled)
    if rounded and is_quantized(compiled.graph_module.graph):
        details["quality"] = judge(assess(), compiled, limits, progress)
    for sentence in (*describe(compiled.leftovers), *_told(compiled.history), *compiled.tuning.notes):
        progress.note(sentence)
    del traced, assess
    gc.collect()  # the traced graph is cyclic, and would take its place in memory beside the weights
    with stage(progress, "weights"):
        return _save(out, job, compiled, source, details)


def _calibration(
    job: Job, traced: Traced, source: TensorSource, request: Request | None, prose: Text, progress: Progress
) -> Calibration | None:
    """What `request` finds for the model of a job; nothing where nobody asked."""
    if request is None:
        return None
    folder, recipe = job.files.folder, job.recipe
    tokenizer = load_tokenizer(folder)
    return calibrate_model(traced, source, recipe, job.device, folder, tokenizer, request, prose, progress)


def _assessment(job: Job, traced: Traced, source: TensorSource, text: Text, progress: Progress) -> Assessment | str:
    """What judges the programs of a job, or why nothing can."""
    tokenizer = load_tokenizer(job.files.folder)
    if text.name == NOTHING:
        return "--text none gives nothing to measure it on"
    if isinstance(source, RandomSource):
        return "the weights are random"
    if tokenizer is None:
        return "the model came without a tokenizer"
    return Assessment(traced, source, job.resolve, job.device, tokenizer, text, progress)


def _told(history: Iterable[PassReport]) -> list[str]:
    """What passes have to tell, but for TUNE, which tells of every measurement."""
    return [note for report in history if report.stage != Stage.TUNE.name for note in report.notes]


def _save(out: Path, job: Job, compiled: Compiled, source: TensorSource, details: Mapping[str, Any]) -> Artifact:
    """Write what was compiled, with how it came to be, and the weights from `source`."""
    assert compiled.spec is not None, "a model of transformers has a spec"
    return artifact.save(
        out,
        name=job.files.reference,
        graph=compiled.graph_module,
        weights=compiled.weights,
        source=source,
        config=job.config.to_dict(),
        dtype=str(job.dtype).removeprefix("torch."),
        devices=(job.device.type,),
        recipe=compiled.recipe.as_dict(),
        history=[report.as_dict() for report in compiled.history],
        details={**details, "program": compiled.spec.as_dict(), "tuning": compiled.tuning.as_dict()},
        assets=artifact.tokenizer_assets(job.files.folder),
    )


def _verify(
    job: Job,
    traced: Traced,
    source: TensorSource,
    fuel: int | None,
    calibration: Calibration | None,
    progress: Progress,
) -> Verification:
    with stage(progress, "verify"):
        return verify_passes(
            traced,
            [one for _, one in job.recipe.passes],
            source=source,
            samples=model_samples(traced, load_tokenizer(job.files.folder)),
            device=job.device,
            kernels=kernel_table(job.device),
            fuel=fuel,
            calibration=calibration,
            observe=lambda _: progress.advance("verify"),
        )


def _reporter(progress: Progress) -> Callable[[PassReport], None]:
    def observe(report: PassReport) -> None:
        progress.start(f"pass {report.name}")
        progress.finish(f"pass {report.name}", f"{report.matches} matches, {report.seconds:.1f} s")

    return observe


def _same(out: Path, fingerprint: str) -> Artifact | None:
    """The artifact at `out`, undamaged, when it is what this build would write."""
    if not out.is_dir() or not any(out.iterdir()):
        return None
    try:
        found = artifact.load(out)
        if found.manifest.details.get("fingerprint") != fingerprint:
            return None
        found.check_weights()
    except ArtifactError:
        return None  # damaged, or of another format: build it again
    return found
