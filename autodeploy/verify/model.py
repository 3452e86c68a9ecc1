"""Verifying a recipe on a model: in float32, and in the dtype that it will run in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from autodeploy.errors import UnsupportedError
from autodeploy.export import Traced, trace_model
from autodeploy.kernels import KernelTable
from autodeploy.pipeline import Pass
from autodeploy.prepare import prepare
from autodeploy.runtime.tokenizer import Tokenizer
from autodeploy.verify.execution import Execution
from autodeploy.verify.result import Check, Verification
from autodeploy.verify.samples import NUM_TOKENS, Samples, token_samples
from autodeploy.verify.trial import run_trial
from autodeploy.verify.weights import BoundaryWeights
from autodeploy.weights.source import TensorSource


def verify_passes(
    traced: Traced,
    passes: Sequence[Pass],
    *,
    source: TensorSource,
    samples: Samples,
    device: torch.device,
    kernels: KernelTable,
    fuel: int | None = None,
    observe: Callable[[Check], None] = lambda _: None,
) -> Verification:
    """Check every pass against the graph before it, in float32 and then in the dtype of `traced`.

    `device` is what the passes compile for; the graphs run there when it is here, and on the CPU otherwise. `observe`
    is told of each check. Takes the memory of the weights in float32, and of those that one pass makes anew. Raises
    VerificationError.
    """
    place = device if device.type == "cpu" or torch.cuda.is_available() else torch.device("cpu")
    own = next(traced.model.parameters()).dtype
    trials, truth = [], None
    for dtype in dict.fromkeys((torch.float32, own)):
        one = traced if dtype is own else trace_model(traced.config, dtype)
        graph_module, context = prepare(one, source, device, kernels, fuel)
        execution = Execution(samples, BoundaryWeights(source, place), kernels)
        trial, first = run_trial(graph_module, context, passes, execution, dtype, truth, observe)
        trials.append(trial)
        truth = first
    counts = {kind: sum(map(len, many)) for kind, many in samples.sequences.items()}
    return Verification(tuple(trials), counts, place.type)


def model_samples(traced: Traced, tokenizer: Tokenizer | None = None) -> Samples:
    """Tokens that the model knows, in sequences that it can take; UnsupportedError for a module on its own."""
    if not isinstance(traced.model, PreTrainedModel):
        raise UnsupportedError(
            f"{type(traced.model).__name__} is a module on its own, and what it takes is not known: verify a model of"
            " transformers, or compare the graph's results with the module's"
        )
    text = traced.config.get_text_config()
    limits = (traced.max_model_len, getattr(text, "max_position_embeddings", None))
    return token_samples(int(text.vocab_size), min(one for one in (*limits, NUM_TOKENS) if one), tokenizer)
