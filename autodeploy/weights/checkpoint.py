"""From a model's parameter names to the keys of a checkpoint, as transformers maps them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel

from autodeploy.checkpoints import form_of, known, unpack
from autodeploy.errors import CheckpointError, UnsupportedError
from autodeploy.weights.conversion import ConversionRules, Job
from autodeploy.weights.expression import Cast, Constant, Expression, Stored, whole
from autodeploy.weights.plan import WeightPlan
from autodeploy.weights.source import TensorSource, nearest_key

IGNORED = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$", r"masked_bias$", r"\.[qkv]_scale$")
"""Buffers that older checkpoints store and today's models compute, and what `cache_scales` takes."""

_CACHE_SCALE = re.compile(r"(?P<attention>.+?)(\.[kv]_proj)?\.(?P<kind>[kv]_scale)$")


def plan_weights(model: PreTrainedModel, source: TensorSource) -> WeightPlan:
    """Say where every parameter and buffer of `model` (on the meta device) comes from, in the model's dtypes.

    Weights that the checkpoint holds quantized are `Dequantized`. Raises CheckpointError for a parameter that `source`
    lacks or holds in another shape, and UnsupportedError for a form of quantization or a conversion we do not know.
    """
    held = unpack(source, form_of(model.config))
    state: dict[str, Tensor] = model.state_dict()
    rules = ConversionRules.of(model)
    jobs: dict[str, Job] = {}
    unexpected = []
    for key in sorted(held, key=natural_order):
        name, pattern = rules.rename(key, state)
        if name in state:
            jobs.setdefault(name, Job(name)).add(pattern, key)
        else:
            unexpected.append(key)
    entries: dict[str, Expression] = {}
    for job in jobs.values():
        entries.update(rules.convert(job, held, state))
    entries = {name: _fit(name, entry, state[name]) for name, entry in entries.items() if name in state}
    _tie(model, entries, state, source)
    entries.update(_constants(model, entries))
    _check_complete(state, entries, source)
    return WeightPlan({name: entries[name] for name in _order(state, entries)}, _surprises(model, unexpected))


def natural_order(key: str) -> list[tuple[int, int, str]]:
    """Sort keys with their numbers as numbers, so that expert 2 comes before expert 10."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"\.|(?<=\D)(?=\d+(?:\.|$))", key)
    ]


def cache_scales(source: TensorSource) -> dict[str, Expression]:
    """The calibrated scales of cached keys and values that a checkpoint holds, by `<attention>.k_scale` or `.v_scale`.

    A scale is one number for all heads of a layer, or one for each. Some tools store it with the projection.
    """
    matches = ((key, _CACHE_SCALE.match(key)) for key in source.keys())  # noqa: SIM118 (it is not a mapping)
    return {f"{found['attention']}.{found['kind']}": Stored.of(key, source) for key, found in matches if found}


def _fit(name: str, entry: Expression, parameter: Tensor) -> Expression:
    """Cast an entry to its parameter's dtype, once its shape and kind are seen to fit."""
    if entry.shape != tuple(parameter.shape):
        raise CheckpointError(
            f"{name} has shape {entry.shape} in the checkpoint and {tuple(parameter.shape)} in the model; "
            "the folder's config.json and weights are not of one model"
        )
    if entry.dtype == parameter.dtype:
        return entry
    if parameter.dtype.is_floating_point and (not entry.dtype.is_floating_point or entry.dtype.itemsize == 1):
        raise UnsupportedError(
            f"{name} is quantized in the checkpoint ({_text(entry.dtype)}), and its config.json does not say how; "
            f"its quantization_config would be one of {', '.join(known())}"
        )
    return Cast(entry, parameter.dtype)


def _tie(
    model: PreTrainedModel, entries: dict[str, Expression], state: Mapping[str, Tensor], source: TensorSource
) -> None:
    """Give tied parameters one entry: whichever of them the checkpoint holds, the model's own source first.

    A checkpoint that holds both with unlike values keeps both: its config is wrong about the tie.
    """
    tied: Mapping[str, str] = model.all_tied_weights_keys
    for owner in dict.fromkeys(tied.values()):
        targets = [target for target in tied if tied[target] == owner and target in state]
        shared = next((entries[name] for name in (owner, *targets) if name in entries), None)
        if shared is None:
            continue
        for name in (owner, *targets):
            if name not in entries or _same_values(entries[name], shared, source):
                entries[name] = shared


def _same_values(left: Expression, right: Expression, source: TensorSource) -> bool:
    """Compare in blocks of rows, so that two vocabularies need not be in memory at once."""
    if left == right:
        return True
    if left.shape != right.shape or not left.shape:
        return False
    rest = whole(left.shape)[1:]
    blocks = (((start, min(start + 4096, left.shape[0])), *rest) for start in range(0, left.shape[0], 4096))
    return all(torch.equal(left.read(source, block), right.read(source, block)) for block in blocks)


def _constants(model: PreTrainedModel, entries: Collection[str]) -> dict[str, Expression]:
    """Buffers with values that the checkpoint does not hold. Those on the meta device have no values to give."""
    return {
        name: Constant(name, buffer.detach())
        for name, buffer in model.named_buffers()
        if name not in entries and not buffer.is_meta
    }


def _check_complete(state: Mapping[str, Tensor], entries: Collection[str], source: TensorSource) -> None:
    missing = [name for name in state if name not in entries]
    if not missing:
        return
    keys = source.keys()
    hint = nearest_key(missing[0], keys)
    others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    raise CheckpointError(
        f"the checkpoint lacks {missing[0]!r}{others} of the model; among its {len(keys)} keys, {hint}"
    )


def _order(state: Mapping[str, Tensor], entries: Iterable[str]) -> list[str]:
    """The model's own order, so that the same model gives the same plan; what the state lacks comes last."""
    return [*state, *(name for name in entries if name not in state)]


def _surprises(model: PreTrainedModel, unexpected: Iterable[str]) -> list[str]:
    ignored = [*IGNORED, *(model._keys_to_ignore_on_load_unexpected or ())]
    return [key for key in unexpected if not any(re.search(pattern, key) for pattern in ignored)]


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
