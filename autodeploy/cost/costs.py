"""What is known of a program's steps, however it came to be known."""

from __future__ import annotations

from abc import ABC, abstractmethod

from autodeploy.cost.reach import EIGHT_BITS
from autodeploy.cost.step import Cost, StepShape
from autodeploy.cost.work import Work
from autodeploy.program import ProgramSpec


class Costs(ABC):
    """What steps of one program cost."""

    spec: ProgramSpec

    @abstractmethod
    def works(self, shape: StepShape) -> list[Work]:
        """What each operator does in a step, in order."""

    @abstractmethod
    def peak_bytes(self, shape: StepShape) -> int:
        """The memory that a step takes for its activations."""

    @abstractmethod
    def weight_bytes(self) -> float:
        """The size of all weights."""

    @abstractmethod
    def cache_bytes(self) -> float:
        """What one token takes in the cache, over all layers."""

    def cost(self, shape: StepShape) -> Cost:
        """The least that a step costs: each weight is read once, and so is the cache of each request.

        Of an embedding only the rows of the tokens count, of experts the share that evenly spread tokens would choose.
        Activations are taken to stay on the chip.
        """
        works = self.works(shape)
        weights = {name: size * work.times for work in works for name, size in work.weight_bytes.items()}
        cache = sum(work.cache_bytes * work.times for work in works)
        narrow = sum(work.num_flops * work.times for work in works if work.precision in EIGHT_BITS)
        return Cost(cache + sum(weights.values()), sum(work.num_flops * work.times for work in works), narrow)
