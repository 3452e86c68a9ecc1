"""Engines over fake models, quick enough to serve in a test."""

from __future__ import annotations

import time

from torch import Tensor

from autodeploy.runtime.engine import Engine
from autodeploy.runtime.model import StepInputs
from autodeploy.runtime.settings import RuntimeSettings
from tests.runtime.fakes import ByteTokenizer, FakeModel, ScriptedModel

EOS = 256


class SlowModel(FakeModel):
    """Takes its time for a step, so that clients can meet in one."""

    def forward(self, inputs: StepInputs, cache: list[Tensor]) -> Tensor:
        time.sleep(0.02)
        return super().forward(inputs, cache)


class FailingModel(FakeModel):
    """Fails in its third step."""

    def forward(self, inputs: StepInputs, cache: list[Tensor]) -> Tensor:
        if len(self.num_tokens_of_steps) == 2:
            raise ZeroDivisionError("out of luck")
        return super().forward(inputs, cache)


def says(text: str, num_prompt: int) -> Engine:
    """An engine that answers `text` to any prompt of `num_prompt` bytes."""
    model = ScriptedModel([*text.encode(), EOS], num_prompt)
    return Engine.of(model, ByteTokenizer(), RuntimeSettings(num_pages=64, max_num_tokens=64), [EOS])


def engine_of(model: FakeModel) -> Engine:
    settings = RuntimeSettings(num_pages=256, page_size=4, max_num_tokens=64, prefix_reuse=False)
    return Engine.of(model, ByteTokenizer(), settings)


def babbles(model: type[FakeModel] = FakeModel) -> Engine:
    """An engine that never ends an answer before its limit."""
    return engine_of(model(vocab_size=257, max_model_len=512))
