"""Verifying a recipe on a model or a module: in float32, and in the dtype that it will run in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from autodeploy.calibration.result import Calibration
from autodeploy.export import Traced, trace_model
from autodeploy.kernels import KernelTable
from autodeploy.pipeline import Pass
from autodeploy.prepare import prepare
from autodeploy.runtime.tokenizer import Tokenizer
from autodeploy.verify.difference import num_rows
from autodeploy.verify.execution import Execution, TokenExecution
from autodeploy.verify.module import InputSamples, ModuleExecution, dtype_of, input_samples, retrace
from autodeploy.verify.result import Check, Trial, Verification
from autodeploy.verify.samples import NUM_TOKENS, Samples, token_samples
from autodeploy.verify.trial import Results, run_trial
from autodeploy.verify.weights import BoundaryWeights
from autodeploy.weights.source import TensorSource


def verify_passes(
    traced: Traced,
    passes: Sequence[Pass],
    *,
    source: TensorSource,
    samples: Samples | InputSamples,
    device: torch.device,
    kernels: KernelTable,
    fuel: int | None = None,
    calibration: Calibration | None = None,
    observe: Callable[[Check], None] = lambda _: None,
) -> Verification:
    """Check every pass against the graph before it, in float32 and then in the dtype of `traced`.

    `device` is what the passes compile for; the graphs run there when it is here, and on the CPU otherwise. `observe`
    is told of each check. Takes the memory of the weights in float32, and of those that one pass makes anew. Raises
    VerificationError.
    """
    place = device if device.type == "cpu" or torch.cuda.is_available() else torch.device("cpu")
    own = dtype_of(traced)
    trials: list[Trial] = []
    truths: Sequence[Results] = ()
    for dtype in (own,) if own.itemsize >= torch.float32.itemsize else (torch.float32, own):
        one = traced if dtype is own else _in_dtype(traced, dtype)
        graph_module, context = prepare(one, source, device, kernels, fuel, calibration)
        execution = _execution(samples, BoundaryWeights(source, place), kernels)
        trial, truths = run_trial(graph_module, context, passes, execution, dtype, truths, observe)
        trials.append(trial)
    counts = {kind: num_rows(result) for kind, result in truths[0].items()}
    return Verification(tuple(trials), counts, place.type)


def _in_dtype(traced: Traced, dtype: torch.dtype) -> Traced:
    if isinstance(traced.model, PreTrainedModel):
        return trace_model(traced.config, dtype)
    return retrace(traced, dtype)


def _execution(samples: Samples | InputSamples, weights: BoundaryWeights, kernels: KernelTable) -> Execution:
    if isinstance(samples, InputSamples):
        return ModuleExecution(samples, weights, kernels)
    return TokenExecution(samples, weights, kernels)


def model_samples(traced: Traced, tokenizer: Tokenizer | None = None) -> Samples | InputSamples:
    """Tokens that the model knows, in sequences that it can take; inputs for a module on its own."""
    if not isinstance(traced.model, PreTrainedModel):
        return input_samples(traced)
    text = traced.config.get_text_config()
    limits = (traced.max_model_len, getattr(text, "max_position_embeddings", None))
    return token_samples(int(text.vocab_size), min(one for one in (*limits, NUM_TOKENS) if one), tokenizer)
