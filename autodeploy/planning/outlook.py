"""What is known of a build before it starts: the model, what fits, how fast it will be, what was rejected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from autodeploy.cost import Fit
from autodeploy.hardware import Gpu
from autodeploy.planning.alternatives import Alternative, reject, too_large
from autodeploy.planning.card import ModelCard, draw_card, plain_card
from autodeploy.planning.estimate import Estimate
from autodeploy.planning.speed import Speed, batch_table, decode_speeds, prompt_speeds
from autodeploy.runtime.settings import RuntimeSettings

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True)
class Outlook:
    """A model on a device. `batches` are lengths of requests, and how many of each run at once."""

    card: ModelCard
    fit: Fit
    batches: tuple[tuple[int, int], ...]
    speeds: tuple[Speed, ...]
    rejected: tuple[Alternative, ...]
    basis: str

    def as_dict(self) -> dict[str, Any]:
        """The outlook as JSON data."""
        return {
            "card": self.card.as_dict(),
            "memory": self.fit.as_dict(),
            "batches": [{"context": context, "max_batch": batch} for context, batch in self.batches],
            "speeds": [one.as_dict() for one in self.speeds],
            "rejected": [one.as_dict() for one in self.rejected],
            "basis": self.basis,
        }


def look_ahead(estimate: Estimate, settings: RuntimeSettings, context: int) -> Outlook:
    """What settings come to for a model on a device."""
    fit = estimate.fit(settings.max_batch_size, settings.max_num_tokens)
    context = min(context, estimate.model.spec.max_model_len)
    card, basis = draw_card(estimate), _basis(estimate.gpu)
    if not fit.fits:
        return Outlook(card, fit, (), (), too_large(estimate, fit), basis)
    speeds = (
        *decode_speeds(estimate, settings.max_batch_size, context, fit),
        *prompt_speeds(estimate, settings.max_num_tokens, fit),
    )
    batches = batch_table(estimate, settings.max_batch_size, fit)
    return Outlook(card, fit, tuple(batches), speeds, reject(estimate, settings, context), basis)


def look_at_weights(config: PretrainedConfig, gpu: Gpu, dtype: torch.dtype, reason: str) -> Outlook:
    """What is known of a model that cannot be traced: its size. `reason` is why; a build will say the same."""
    from autodeploy.cost.sample import count_model  # it imports transformers

    counted = count_model(config)
    fit = Fit(gpu.memory_gb * 1e9, float(counted.num_parameters * dtype.itemsize), 0.0, 0.0, 0.0)
    card = plain_card(config.model_type, counted)
    return Outlook(card, fit, (), (), (Alternative("a build", False, reason),), "the weights alone")


def _basis(gpu: Gpu) -> str:
    if gpu.measured is not None:
        return f"predicted from ceilings measured on {gpu.measured.source}"
    if gpu.is_cpu:
        return "predicted from the CPU's round figures: an order of magnitude"
    return f"predicted from the datasheet of {gpu.title}, of which operators reach what they do on an H200"
