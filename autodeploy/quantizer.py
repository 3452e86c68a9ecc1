"""From a model reference to a quantized checkpoint in the layout of Hugging Face, which other servers load too."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from autodeploy.artifact import tokenizer_assets
from autodeploy.artifact.manifest import MANIFEST
from autodeploy.cache import make_folder
from autodeploy.calibration.data import load_tokenizer
from autodeploy.calibration.model import calibrate_model
from autodeploy.calibration.request import Request
from autodeploy.calibration.result import Calibration
from autodeploy.choosing import DTYPES, Recipe, resolve_settings
from autodeploy.compressed.assignment import Assignment, assign, units
from autodeploy.compressed.files import Unit, write_files
from autodeploy.compressed.settings import quantization_config
from autodeploy.discovery import kernel_table
from autodeploy.errors import InputError, ModelError, nearest
from autodeploy.export import Traced, load_config, trace_model
from autodeploy.hardware import choose_gpu
from autodeploy.hub import resolve
from autodeploy.pipeline import Stage, run_passes
from autodeploy.prepare import fitting_passes, prepare
from autodeploy.progress import NullProgress, Progress, stage
from autodeploy.quality.text import NOTHING, read_text
from autodeploy.quantization import Scheme, name_of
from autodeploy.quantization.marks import scheme_of
from autodeploy.quantization.option import scheme_of_option
from autodeploy.weights.checkpoint import plan_weights
from autodeploy.weights.safetensors_source import SafetensorsSource
from autodeploy.weights.source import TensorSource

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class QuantizedCheckpoint:
    """A checkpoint that was written: how many projections got each scheme, and which stayed as they were."""

    path: Path
    schemes: Mapping[str, int]
    left: tuple[str, ...]
    nbytes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for `--json`."""
        return {"checkpoint": str(self.path), "schemes": dict(self.schemes), "left": self.left, "bytes": self.nbytes}


def quantize(
    model: str,
    *,
    out: str | Path,
    quantize: str | None = None,
    dtype: str = "auto",
    recipe: str = "auto",
    calibrate: str | None = None,
    method: str | None = None,
    set: Mapping[str, Any] = _NONE,  # noqa: A002 (the command line's name)
    progress: Progress | None = None,
) -> QuantizedCheckpoint:
    """Round a model's projections as a build would, and write them as a checkpoint of compressed-tensors to `out`.

    `quantize` names the scheme of what no rule of the recipe names. `calibrate` names the text that calibrates it (a
    file, or "sample"), which awq, gptq and smoothquant take anyway, and `method` how static scales are found: see
    `autodeploy.build`. Everything else stays as it is, in `dtype`: "auto"
    is the checkpoint's own. One weight at a time is in memory, and `out`, a folder that is empty or not there yet, is
    never seen half-written. Raises InputError (or one of its kinds) for a model, option or folder that is not valid.
    """
    progress, out = progress or NullProgress(), Path(out)
    check_target(out)
    if quantize is not None:
        scheme_of_option(quantize)  # build takes more: what searches
    request = Request.of(quantize, "auto", calibrate, method)
    with stage(progress, "resolve"):
        folder = resolve(model, progress=progress).folder
        config = _load(model, folder)
        settings = resolve_settings(
            config, choose_gpu("cpu"), recipe=recipe, workload="balanced", values=set, quantize=quantize
        )
    with stage(progress, "export"):
        traced = trace_model(config, choose_dtype(dtype, config))
    source = SafetensorsSource(folder)
    calibration = Calibration()
    if request is not None:
        given = (traced, source, settings, torch.device("cpu"), folder, load_tokenizer(folder), request)
        calibration = calibrate_model(*given, read_text(NOTHING), progress)
    found, made = _prepare(traced, source, settings, calibration, progress)
    written = _write(out, folder, traced, found, made, progress)
    counts = Counter(name_of(scheme) for scheme in found.schemes.values())
    return QuantizedCheckpoint(out, dict(counts), found.left, written)


def check_target(out: Path) -> None:
    """Raise InputError when something is at `out` already."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"--out {out}: it is there already, and stays; give the name of a new folder")


def choose_dtype(name: str, config: PretrainedConfig) -> torch.dtype:
    """The dtype of what is not quantized: the checkpoint's own, bf16 where it does not say; InputError when unknown."""
    if name == "auto":
        own = getattr(config.get_text_config(), "dtype", None)
        return own if isinstance(own, torch.dtype) and own in DTYPES.values() else torch.bfloat16
    if name not in DTYPES:
        raise InputError(f"--dtype {name}: not a choice; {nearest(name, ['auto', *DTYPES])}")
    return DTYPES[name]


def _load(model: str, folder: Path) -> PretrainedConfig:
    if (folder / MANIFEST).is_file():
        raise ModelError(f"{model} is an artifact, built already: give the model that it was built from")
    config = load_config(folder)
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError(f"{model} is quantized already: give the model that it was made from")
    return config


def _prepare(
    traced: Traced, source: TensorSource, recipe: Recipe, calibration: Calibration, progress: Progress
) -> tuple[Assignment, list[Unit]]:
    """What is going to be written; InputError when nothing of it would be quantized."""
    assert isinstance(traced.model, PreTrainedModel), "it was made from a config"
    with stage(progress, "plan"):
        marks, notes = _settle(traced, source, recipe)
        plan = plan_weights(traced.model, source)
        found = assign(traced.model, plan, source, {**marks, **calibration.schemes()})
    for sentence in (*notes, *found.notes):
        progress.note(sentence)
    if not found.schemes:
        raise InputError("nothing would be quantized: name a scheme by --quantize, or give rules that match")
    calibrated = plan.copy()
    calibration.lay_over(calibrated)
    return found, units(plan, calibrated, source, found)


def _settle(traced: Traced, source: TensorSource, recipe: Recipe) -> tuple[dict[str, Scheme], list[str]]:
    """The schemes that the recipe's rules give to weights by name, and what the passes told of it."""
    cpu = torch.device("cpu")
    gm, context = prepare(traced, source, cpu, kernel_table(cpu))
    passes = [one for one in fitting_passes(traced, recipe) if one.stage <= Stage.CANONICALIZE]
    reports = run_passes(gm, passes, context)
    schemes = {str(node.target): scheme_of(node) for node in gm.graph.find_nodes(op="get_attr")}
    marks = {name: scheme for name, scheme in schemes.items() if scheme.is_quantized}
    return marks, [note for report in reports for note in report.notes]


def _write(out: Path, folder: Path, traced: Traced, found: Assignment, made: list[Unit], progress: Progress) -> int:
    """Write the checkpoint's files to a temporary folder beside `out`, and rename it; returns the weights' bytes."""
    written: list[int] = []

    def fill(partial_folder: Path) -> None:
        for name, file in tokenizer_assets(folder).items():
            shutil.copyfile(file, partial_folder / name)
        text = json.dumps(_described(folder, traced, found), indent=2)
        (partial_folder / "config.json").write_text(text + "\n")
        written.append(write_files(partial_folder, made, partial(progress.advance, "weights")))
        partial_folder.chmod(0o755)  # a temporary folder is private

    try:
        if out.is_dir():
            out.rmdir()
        with stage(progress, "weights", len(made)):
            make_folder(out, fill)
    except OSError as error:
        raise InputError(f"--out {out}: it cannot be written: {error.strerror or error}") from error
    return written[0]


def _described(folder: Path, traced: Traced, found: Assignment) -> dict[str, Any]:
    """The model's own `config.json` with what is new in it."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    dtype = next(iter(traced.model.parameters())).dtype
    old_name = "torch_dtype" in config and "dtype" not in config
    named = {"torch_dtype" if old_name else "dtype": str(dtype).removeprefix("torch.")}
    return {**config, **named, "quantization_config": quantization_config(found.schemes, found.left)}
