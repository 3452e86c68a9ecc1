"""The weights of one state of the graph after another."""

from __future__ import annotations

import torch
from torch import Tensor

from autodeploy.weights import Expression, PartReader, TensorSource, WeightPlan


class BoundaryWeights:
    """Reads what a pass made anew, and keeps what it left; what no weight is made of any more is dropped."""

    def __init__(self, source: TensorSource, device: torch.device) -> None:
        self.device = device
        self._source = source
        self._held: dict[Expression, Tensor] = {}

    def read(self, plan: WeightPlan) -> dict[str, Tensor]:
        """Every weight of `plan`, on the device. Do not write to them."""
        for gone in set(self._held) - set(plan.values()):
            del self._held[gone]
        reader = PartReader(self._source)
        for expression in plan.values():
            if expression not in self._held:
                self._held[expression] = reader.read(expression).contiguous().to(self.device)
        return {name: self._held[expression] for name, expression in plan.items()}
