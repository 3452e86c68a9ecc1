"""Tiny models, for whoever writes passes."""

from __future__ import annotations

import pytest
import torch

from autodeploy.errors import InputError
from autodeploy.testing import FAMILIES, tiny_config, tiny_model
from autodeploy.testing.families import OTHER_FAMILIES, config_with


@pytest.mark.parametrize("family", [*FAMILIES, *OTHER_FAMILIES])
def test_a_config_is_small_and_of_its_family(family: str) -> None:
    config = tiny_config(family)
    assert config.model_type == family
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (64, 2, 96)


def test_options_win_over_the_familys_and_those_over_the_sizes() -> None:
    config = tiny_config("gemma2", num_hidden_layers=3, sliding_window=4)
    assert (config.num_hidden_layers, config.sliding_window, config.tie_word_embeddings) == (3, 4, True)
    assert not config_with("gemma2", {}).tie_word_embeddings


def test_an_unknown_family_names_the_nearest() -> None:
    with pytest.raises(InputError, match="'lama' is no model type of transformers; did you mean 'llama'"):
        tiny_config("lama")


def test_a_model_is_the_same_each_time_and_no_weight_is_trivial() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    one, other = tiny_model("llama").state_dict(), tiny_model(tiny_config("llama")).state_dict()
    assert torch.equal(torch.rand(1), wanted)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not any(bool((tensor == 0).any() or (tensor == 1).all()) for tensor in one.values())
    assert tiny_model("llama", torch.bfloat16).dtype == torch.bfloat16
