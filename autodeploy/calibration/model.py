"""From a traced model and a request to its calibration, out of the cache where it was made before."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from autodeploy.calibration import modelopt
from autodeploy.calibration.cache import Key, keep_calibration, load_calibration
from autodeploy.calibration.calibrate import calibrate
from autodeploy.calibration.data import calibration_windows, hash_model, hash_windows
from autodeploy.calibration.request import Request
from autodeploy.calibration.result import Calibration
from autodeploy.choosing import Recipe
from autodeploy.discovery import kernel_table
from autodeploy.errors import InputError
from autodeploy.export import Traced
from autodeploy.pipeline import Stage, run_passes
from autodeploy.prepare import fitting_passes, prepare
from autodeploy.progress import Progress
from autodeploy.quality.text import Text
from autodeploy.quantization.option import TECHNIQUES
from autodeploy.runtime.tokenizer import Tokenizer
from autodeploy.weights.source import RandomSource, TensorSource


def calibrate_model(
    traced: Traced,
    source: TensorSource,
    recipe: Recipe,
    device: torch.device,
    folder: Path,
    tokenizer: Tokenizer | None,
    request: Request,
    measured: Text,
    progress: Progress,
) -> Calibration:
    """What `request` finds for the model in `folder`, whose projections `recipe` marks; notes go to `progress`.

    It runs on `device`, or on the CPU where that is not here. The text on which the loss is `measured` is kept apart.
    Raises InputError without a tokenizer or with random weights, and UnsupportedError as `calibrate` does.
    """
    if tokenizer is None or isinstance(source, RandomSource):
        missing = "a tokenizer" if tokenizer is None else "the checkpoint's weights, and --load-format random has none"
        raise InputError(f"--quantize {request.quantize}: calibration needs {missing}")
    windows = calibration_windows(request.text, measured, tokenizer, traced.max_model_len)
    key = Key(_rests_on(traced, recipe, folder, windows, request))
    found = load_calibration(key, progress)
    if found is None:
        here = device if device.type == "cpu" or torch.cuda.is_available() else torch.device("cpu")
        found = _calibrate(traced, source, recipe, here, windows, request, progress)
        if not found.changes and not found.cache_scales:
            raise InputError(
                f"--calibrate {request.text}: there is nothing to calibrate; schemes with 8-bit inputs have ranges, "
                f"and so has a cache in 8 bits; weights are calibrated by {', '.join(TECHNIQUES)}"
            )
        keep_calibration(key, found)
    else:
        progress.note(f"calibrated before: {key.folder}")
    for sentence in found.notes:
        progress.note(sentence)
    return found


def _calibrate(
    traced: Traced,
    source: TensorSource,
    recipe: Recipe,
    device: torch.device,
    windows: Sequence[Sequence[int]],
    request: Request,
    progress: Progress,
) -> Calibration:
    gm, context = prepare(traced, source, device, kernel_table(device))
    known = frozenset(context.weights)
    run_passes(gm, [one for one in fitting_passes(traced, recipe) if one.stage <= Stage.CANONICALIZE], context)
    return calibrate(gm.graph, context.weights, source, device, windows, request, known, progress)


def _rests_on(
    traced: Traced, recipe: Recipe, folder: Path, windows: Sequence[Sequence[int]], request: Request
) -> dict[str, Any]:
    """Everything that decides about a calibration; not the device, so that one serves all."""
    marks = [one.model_dump(mode="json") for _, one in recipe.passes if one.name == "mark_precision"]
    smooths = request.technique.smoothing != "none"
    return {
        "model": hash_model(folder),
        "data": hash_windows(windows),
        "method": request.method,
        "quantize": request.quantize,
        "cache": request.cache,
        "precision": marks,
        "dtype": str(next(traced.model.parameters()).dtype),
        "versions": [version("fx-autodeploy"), modelopt.installed_version() if smooths else None],
    }
