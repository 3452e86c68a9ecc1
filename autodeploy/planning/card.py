"""What a model is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from autodeploy.planning.estimate import Estimate

if TYPE_CHECKING:
    from autodeploy.cost.sample import Counted


@dataclass(frozen=True)
class ModelCard:
    """A model in a few figures. What only the graph tells is None for a model that could not be traced."""

    architecture: str
    num_parameters: int
    num_layers: int
    layer_kinds: int
    active_parameters: int | None = None
    """Of those, what one token meets: all but the experts that it does not choose."""
    attention: str | None = None
    max_model_len: int | None = None
    vocab_size: int | None = None
    weight_bytes: float | None = None
    cache_bytes_per_token: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON data."""
        return asdict(self)


def draw_card(estimate: Estimate) -> ModelCard:
    """The card of a model that was traced."""
    spec, figures = estimate.model.spec, estimate.figures
    return ModelCard(
        figures.architecture,
        figures.num_parameters,
        figures.num_layers,
        figures.layer_kinds,
        _active_parameters(estimate),
        figures.attention,
        spec.max_model_len,
        spec.vocab_size,
        estimate.weight_bytes,
        estimate.model.cache_bytes(),
    )


def plain_card(model_type: str, counted: Counted) -> ModelCard:
    """The card of a model that could not be traced."""
    return ModelCard(model_type, counted.num_parameters, len(counted.layers), len(set(counted.layers)))


def _active_parameters(estimate: Estimate) -> int:
    """One token reads of the experts what it chooses."""
    others = estimate.expert_bytes() - estimate.expert_bytes(num_tokens=1)
    return estimate.figures.num_parameters - int(others / estimate.dtype.itemsize)
