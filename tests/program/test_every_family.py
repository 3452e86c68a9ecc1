"""Every causal model type that transformers has: served, or refused in a sentence."""

from __future__ import annotations

import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from autodeploy.errors import AutodeployError
from autodeploy.testing.families import VOCAB_SIZE, tiny_config, tiny_model
from autodeploy.weights import MemorySource
from tests.families import build, error, replay

TOKENS = 12


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
def test_a_model_type_is_served_or_refused(model_type: str) -> None:
    """Those that need more than the common sizes for a tiny config are skipped; the reasons are in the report (-rs)."""
    token_ids = torch.randint(3, VOCAB_SIZE, (TOKENS,), generator=torch.manual_seed(1)).tolist()
    try:
        model = tiny_model(tiny_config(model_type))
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
