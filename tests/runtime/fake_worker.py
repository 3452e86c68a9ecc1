"""`python -m tests.runtime.fake_worker ADDRESS`: a worker over a fake model; the artifact names what it is to do."""

from __future__ import annotations

import os
import sys

from torch import Tensor

from autodeploy.errors import RecipeError
from autodeploy.runtime.core import EngineCore
from autodeploy.runtime.messages import Start
from autodeploy.runtime.model import StepInputs
from autodeploy.runtime.protocol import Core
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.runtime.worker import Worker
from tests.runtime.fakes import FakeModel


class Mortal(FakeModel):
    """Fails, or takes its process with it, in the third step."""

    def __init__(self, end: str) -> None:
        super().__init__(vocab_size=257)
        self._end = end

    def forward(self, inputs: StepInputs, cache: list[Tensor]) -> Tensor:
        if len(self.num_tokens_of_steps) == 2:
            if self._end == "dies":
                os._exit(9)
            if self._end == "fails":
                raise ZeroDivisionError("out of luck")
        return super().forward(inputs, cache)


def load(start: Start) -> Core:
    if start.artifact == "refuses":
        raise RecipeError("no such thing; did you mean another?")
    return EngineCore(Mortal(start.artifact), RuntimeSettings(**start.settings), notes=["a note"])


if __name__ == "__main__":
    sys.exit(Worker(sys.argv[1], load).run())
