"""What a plan rests on of a model once it was traced, without the graph."""

from __future__ import annotations

from dataclasses import dataclass

from autodeploy.cost import Costs


@dataclass(frozen=True)
class ModelFigures:
    """A model in figures. They are of the whole model, though only its first layers were traced."""

    architecture: str
    num_parameters: int
    num_layers: int
    layer_kinds: int
    attention: str
    """How queries share keys, and how far they see, by layer."""
    costs: Costs
