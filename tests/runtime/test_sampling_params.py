from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from autodeploy.errors import RecipeError, RequestError
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.settings import RuntimeSettings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -1.0}, "temperature should be greater than or equal to 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature should be a finite number, got nan"),
        ({"top_p": 0.0}, "top_p should be greater than 0, got 0.0"),
        ({"top_k": -2}, "top_k should be greater than or equal to -1, got -2"),
        ({"n": 0}, "n should be greater than or equal to 1, got 0"),
        ({"max_tokens": 0}, "max_tokens should be greater than or equal to 1, got 0"),
        ({"max_token": 5}, "'max_token' is not an option here; did you mean 'max_tokens'?"),
        ({"min_tokens": 9, "max_tokens": 4}, "min_tokens should be at most max_tokens=4, got 9"),
        ({"stop": ["a", ""]}, "stop should not hold an empty string, got ['a', '']"),
        ({"stop": "a", "detokenize": False}, "stop needs detokenize=True: stop strings are searched in text"),
    ],
)
def test_a_bad_value_is_one_sentence(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**fields)
    assert str(caught.value) == message
    with pytest.raises(RequestError):
        SamplingParams.model_validate(fields)


def test_params_are_frozen_and_have_the_defaults_of_vllm() -> None:
    params = SamplingParams()
    assert (params.n, params.temperature, params.top_p, params.top_k, params.max_tokens) == (1, 1.0, 1.0, 0, 16)
    with pytest.raises(ValidationError):
        params.n = 2


def test_stop_strings_are_always_a_tuple() -> None:
    assert SamplingParams().stop_strings == ()
    assert SamplingParams(stop="end").stop_strings == ("end",)
    assert SamplingParams(stop=["a", "b"]).stop_strings == ("a", "b")


def test_json_turns_into_params() -> None:
    params = SamplingParams.model_validate_json('{"logit_bias": {"12": -1.5}, "stop": ["x"], "max_tokens": null}')
    assert params.logit_bias == {12: -1.5}
    assert params.max_tokens is None


def test_settings_name_the_nearest_option() -> None:
    with pytest.raises(RecipeError, match="'pagesize' is not an option here; did you mean 'page_size'"):
        RuntimeSettings.model_validate({"pagesize": 8})
    with pytest.raises(RecipeError, match="page_size should be greater than or equal to 1, got 0"):
        RuntimeSettings(page_size=0)
