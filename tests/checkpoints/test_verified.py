"""`--verify` of quantized checkpoints: what they take over is what the plain graph computes of their numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import autodeploy as ad
from autodeploy.export import trace_model
from autodeploy.weights import MemorySource
from tests.checkpoints import test_gptq_and_awq as gptq
from tests.checkpoints import test_modelopt as modelopt
from tests.checkpoints.checks import Encode, config, encode, plain

FORMS: dict[str, tuple[dict[str, Any], Encode]] = {
    "act-order": (gptq.gptq_settings(act_order=True), gptq.gptq(act_order=True)),
    "SmoothQuant": (modelopt.settings("W8A8_SQ_PER_CHANNEL"), modelopt.write("W8A8_SQ_PER_CHANNEL")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_every_pass_keeps_to_its_tolerance(name: str) -> None:
    settings, one = FORMS[name]
    stored, _ = encode(plain(num_hidden_layers=1), one)
    traced = trace_model(config(settings, num_hidden_layers=1), torch.float32)
    found = ad.optimize(traced, gpu="cpu", source=MemorySource(stored)).verify()
    checks = {check.name: check for trial in found.trials for check in trial.checks}
    assert checks["quantize_linears"].bound.startswith("loss ≤ ")
    assert not [check for check in checks.values() if check.failure]
