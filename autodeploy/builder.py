"""From a model reference to an artifact."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from autodeploy import artifact
from autodeploy.artifact import Artifact
from autodeploy.errors import ArtifactError, InputError, nearest
from autodeploy.foresight import foresee
from autodeploy.job import Job
from autodeploy.progress import NullProgress, Progress, stage
from autodeploy.quality.search import Limits
from autodeploy.quality.text import SAMPLE, read_text
from autodeploy.runtime.foreseen import FILE
from autodeploy.workpiece import Made, Wishes, make

LOAD_FORMATS = ("auto", "random")
_NONE: Mapping[str, Any] = MappingProxyType({})


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
    if load_format not in LOAD_FORMATS:
        raise InputError(f"--load-format {load_format}: not a choice; {nearest(load_format, LOAD_FORMATS)}")
    options = {"gpu": gpu, "dtype": dtype, "recipe": recipe, "workload": workload}
    progress, out = progress or NullProgress(), Path(out)
    artifact.check_target(out)
    with stage(progress, "resolve"):
        weights = load_format != "random"
        job = Job(model, **options, quantize=quantize, values=set, weights=weights, progress=progress)
    progress.plan(job.plan())
    limits, request = Limits(max_kl, min_agreement), job.calibrates(calibrate, method)
    wishes = Wishes(load_format, fuel, verify, limits, read_text(text), request)
    fingerprint = wishes.fingerprint(job)
    kept = _same(out, fingerprint)
    if kept is not None and (kept.verification or not verify):
        progress.note(f"{out} holds this very build already; it was checked and kept")
        return kept
    made = make(job, wishes, progress)
    gc.collect()  # the traced graph is cyclic, and would take its place in memory beside the weights
    with stage(progress, "weights"):
        return _save(out, job, made, fingerprint)


def _save(out: Path, job: Job, made: Made, fingerprint: str) -> Artifact:
    """Write what was made, with how it came to be, and its weights."""
    compiled = made.compiled
    assert compiled.spec is not None, "a model of transformers has a spec"
    origin = {"fingerprint": fingerprint, "gpu": job.choice.gpu.name, "model": job.origin}
    runs = {"program": compiled.spec.as_dict(), "tuning": compiled.tuning.as_dict()}
    assets: dict[str, Path | bytes] = {**artifact.tokenizer_assets(job.files.folder)}
    kernels = foresee(compiled, job.device)
    if kernels is not None:
        assets[FILE] = json.dumps(kernels.as_dict()).encode()
    return artifact.save(
        out,
        name=job.files.reference,
        graph=compiled.graph_module,
        weights=compiled.weights,
        source=made.source,
        config=job.config.to_dict(),
        dtype=str(job.dtype).removeprefix("torch."),
        devices=(job.device.type,),
        recipe=compiled.recipe.as_dict(),
        history=[report.as_dict() for report in compiled.history],
        details={**origin, **made.evidence, **runs},
        assets=assets,
    )


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
