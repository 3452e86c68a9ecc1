"""What a model is, from its config and the graph of its first layers."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from torch.fx import Node

from autodeploy.cost import Counted, attends
from autodeploy.graph.nodes import arguments, value
from autodeploy.planning.estimate import Estimate


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
    spec = estimate.model.spec
    return ModelCard(
        estimate.config.model_type,
        estimate.counted.num_parameters,
        estimate.sample.num_layers,
        len(set(estimate.counted.layers)),
        _active_parameters(estimate),
        _attention(estimate),
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
    return estimate.counted.num_parameters - int(others / estimate.dtype.itemsize)


def _attention(estimate: Estimate) -> str:
    """How queries share keys, and how far they see, by layer."""
    graph = estimate.model.graph_module.graph
    kinds: dict[str, float] = defaultdict(float)
    for node in filter(attends, graph.nodes):
        kinds[_kind(node)] += estimate.model.times(node)
    ordered = sorted(kinds.items(), key=lambda pair: -pair[1])
    parts = [f"{count:.0f} layers of {kind}" if len(kinds) > 1 else kind for kind, count in ordered]
    return "; ".join(parts) or "none"


def _kind(node: Node) -> str:
    named = arguments(node)
    q, keys, values = (value(named[name]) for name in ("q", "key_pages", "value_pages"))
    heads, shared, width = int(q.shape[-2]), int(keys.shape[1]), int(keys.shape[3])
    if heads == shared:
        kind = f"multi-head attention, {heads} heads"
    elif shared == 1:
        kind = f"multi-query attention, {heads} heads"
    else:
        kind = f"grouped-query attention, {heads} heads on {shared}"
    size = f"{kind} of {width}" if values.shape[3] == width else f"{kind} of {width} and {int(values.shape[3])}"
    return size if named["window"] is None else f"{size}, window {named['window']:,}"
