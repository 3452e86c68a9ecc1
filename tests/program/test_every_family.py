"""Every causal model type that transformers has: served, or refused in a sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from autodeploy.errors import AutodeployError
from autodeploy.testing.families import VOCAB_SIZE, tiny_config, tiny_model
from autodeploy.weights import MemorySource
from tests.families import build, error, replay

TOKENS, MAX_PARAMETERS = 12, 20_000_000


def num_parameters(config: PretrainedConfig) -> int:
    factory: Any = AutoModelForCausalLM
    with init_empty_weights():
        return sum(parameter.numel() for parameter in factory.from_config(config).parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_a_model_type_is_served_or_refused(model_type: str) -> None:
    """Those that need more than the common sizes for a tiny config are skipped; the reasons are in the report (-rs)."""
    token_ids = torch.randint(3, VOCAB_SIZE, (TOKENS,), generator=torch.manual_seed(1)).tolist()
    try:
        config = tiny_config(model_type)
        if num_parameters(config) > MAX_PARAMETERS:
            pytest.skip("no tiny model: parts of it do not shrink with the common sizes")
        model = tiny_model(config)
        with torch.no_grad():
            wanted = model(torch.tensor([token_ids])).logits[0]
    except Exception as problem:  # whatever a family says to sizes that are not its own
        pytest.skip(f"no tiny model: {problem}".split("\n")[0])
    try:
        program = build(model.config, MemorySource(dict(model.state_dict()))).program
    except AutodeployError as refusal:
        refused = str(refusal)
    else:
        refused = ""
    assert "\n" not in refused
    if refused:
        pytest.skip(refused)
    assert error(replay(program, token_ids, [7, 1, 4]), wanted) <= 1e-5
