from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from autodeploy.runtime.engine import Engine
from tests.server.engines import FailingModel, SlowModel, babbles, says

Connect = Callable[[Engine], OpenAI]
Http = Callable[[Engine], httpx.Client]
CHAT_PROMPT = len(b"user: hi\nassistant: ")
HI: list[Any] = [{"role": "user", "content": "hi"}]


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def events(text: str) -> Iterator[Any]:
    for line in text.split("\n\n"):
        data = line.removeprefix("data: ")
        if data and data != "[DONE]":
            yield json.loads(data)


def test_models(client_of: Connect) -> None:
    client = client_of(says("hello", 1))
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "autodeploy"


def test_a_chat(client_of: Connect) -> None:
    answer = client_of(says("hello", CHAT_PROMPT)).chat.completions.create(model="tiny", messages=HI, temperature=0)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", "hello", "stop")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (CHAT_PROMPT, 6)


def test_a_chat_of_parts(client_of: Connect) -> None:
    parts: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]
    client = client_of(says("hello", CHAT_PROMPT))
    assert (
        client.chat.completions.create(model="tiny", messages=parts, temperature=0).choices[0].message.content
        == "hello"
    )


def test_a_streamed_chat(client_of: Connect) -> None:
    client = client_of(says("hé!", CHAT_PROMPT))
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=HI, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == "hé!"
    assert "\ufffd" not in texts
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"
    assert not chunks[-1].choices
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == CHAT_PROMPT + 5
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_without_usage_has_none(client_of: Connect) -> None:
    chunks = list(client_of(says("hello", 1)).completions.create(model="tiny", prompt="x", stream=True, temperature=0))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "hello"
    assert all(chunk.usage is None for chunk in chunks)


def test_a_completion_ends_at_its_limit_and_at_stops(client_of: Connect) -> None:
    client = client_of(says("hello", 1))
    cut = client.completions.create(model="tiny", prompt="x", max_tokens=3, temperature=0)
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == ("hel", "length")
    stopped = client.completions.create(model="tiny", prompt="x", stop=["lo"], temperature=0)
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == ("hel", "stop")


def test_prompts_and_siblings_have_their_own_index(client_of: Connect) -> None:
    client = client_of(babbles())
    two = client.completions.create(model="tiny", prompt=["ab", "cd"], n=2, max_tokens=4, seed=1)
    assert [choice.index for choice in two.choices] == [0, 1, 2, 3]
    assert two.usage is not None
    assert (two.usage.prompt_tokens, two.usage.completion_tokens) == (4, 16)
    one = client.completions.create(model="tiny", prompt="cd", n=2, max_tokens=4, seed=1)
    assert [choice.text for choice in one.choices] == [choice.text for choice in two.choices[2:]]
    streamed: dict[int, str] = {}
    for chunk in client.completions.create(
        model="tiny", prompt=[[97, 98], [99, 100]], n=2, max_tokens=4, seed=1, stream=True
    ):
        for choice in chunk.choices:
            streamed[choice.index] = streamed.get(choice.index, "") + choice.text
    assert streamed == {choice.index: choice.text for choice in two.choices}


def test_sampling_options_reach_the_engine(client_of: Connect) -> None:
    client = client_of(babbles())
    biased = client.completions.create(model="tiny", prompt="x", max_tokens=3, logit_bias={"65": 100})
    assert biased.choices[0].text == "AAA"
    penalized = client.completions.create(
        model="tiny", prompt="x", max_tokens=3, logit_bias={"65": 100}, frequency_penalty=2.0, presence_penalty=-2.0
    )
    assert penalized.choices[0].text == "AAA"
    greedy = [
        client.completions.create(model="tiny", prompt="x", extra_body={"top_k": 1}).choices[0].text for _ in range(2)
    ]
    assert greedy[0] == greedy[1]


def test_max_completion_tokens(client_of: Connect) -> None:
    client = client_of(babbles())
    answer = client.chat.completions.create(model="tiny", messages=HI, max_completion_tokens=3)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_logprobs_of_a_chat(client_of: Connect) -> None:
    client = client_of(says("hello", CHAT_PROMPT))
    answer = client.chat.completions.create(
        model="tiny", messages=HI, temperature=0, logprobs=True, top_logprobs=2, max_tokens=2
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [(one.token, one.bytes, len(one.top_logprobs)) for one in logprobs.content] == [
        ("h", [104], 2),
        ("e", [101], 2),
    ]
    assert logprobs.content[0].top_logprobs[0].logprob == logprobs.content[0].logprob


def test_logprobs_of_a_completion(client_of: Connect) -> None:
    answer = client_of(says("hello", 1)).completions.create(
        model="tiny", prompt="x", max_tokens=2, logprobs=1, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == ["h", "e"]
    assert logprobs.text_offset == [0, 1]
    assert logprobs.top_logprobs is not None
    assert [len(one) for one in logprobs.top_logprobs] == [1, 1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tools": [{"type": "function"}]}, "does not support 'tools'"),
        ({"response_format": {"type": "json_object"}}, "does not support 'response_format'"),
        ({"modalities": ["audio"]}, "does not support 'modalities'"),
        ({"tempratur": 1}, "'tempratur' is not a field that this server knows; did you mean 'temperature'?"),
        ({"temperature": -1}, "temperature should be greater than or equal to 0, got -1"),
        ({"temperature": "hot"}, "temperature: Input should be a valid number"),
        ({"top_logprobs": 2}, "top_logprobs needs logprobs"),
        ({"max_tokens": 0}, "max_tokens should be greater than or equal to 1"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "message parts of type 'image_url'"),
        ({"messages": [{"role": "system", "content": "x"}]}, "the chat template refuses these messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 600}]}, "at most 511 can be served"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "not valid Unicode"),
        ({"logit_bias": {"9999": 1}}, "logit_bias has token id 9999"),
    ],
)
def test_what_is_refused_is_named(http_of: Http, more: dict[str, Any], message: str) -> None:
    http = http_of(babbles())
    body = json.dumps({"model": "tiny", "messages": HI, "max_tokens": 1} | more)
    response = http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"
    assert http.post("/v1/completions", json={"model": "tiny", "prompt": "x"}).status_code == 200


@pytest.mark.parametrize("more", [{"echo": True}, {"best_of": 2}, {"suffix": "x"}])
def test_what_completions_refuse_is_named(client_of: Connect, more: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError, match=f"does not support '{next(iter(more))}'"):
        client_of(babbles()).completions.create(model="tiny", prompt="x", extra_body=more)


def test_values_that_ask_for_nothing_are_accepted(client_of: Connect) -> None:
    client = client_of(babbles())
    client.chat.completions.create(
        model="tiny", messages=HI, max_tokens=1, tools=[], response_format={"type": "text"}, user="me"
    )
    client.completions.create(model="tiny", prompt="x", echo=False, best_of=1, suffix=None)


def test_an_unknown_model_and_path(client_of: Connect, http_of: Http) -> None:
    client = client_of(babbles())
    with pytest.raises(NotFoundError, match="'tinny' is not served here; did you mean 'tiny'"):
        client.completions.create(model="tinny", prompt="x")
    with pytest.raises(NotFoundError):
        client.models.retrieve("tinny")
    http = http_of(babbles())
    assert "Not Found" in http.get("/v2/models").json()["error"]["message"]
    assert http.get("/v1/completions").status_code == 405
    assert http.post("/v1/completions", content="{").status_code == 400


def test_a_refused_prompt_takes_its_siblings_along(client_of: Connect) -> None:
    engine = babbles()
    with pytest.raises(BadRequestError):
        client_of(engine).completions.create(model="tiny", prompt=["x", "y" * 600], max_tokens=100)
    assert engine.stats().num_running + engine.stats().num_waiting == 0


def test_two_clients_share_a_batch(client_of: Connect) -> None:
    engine = babbles(SlowModel)
    client = client_of(engine)
    with ThreadPoolExecutor(2) as pool:
        answers = list(
            pool.map(lambda prompt: client.completions.create(model="tiny", prompt=prompt, max_tokens=20), ("ab", "cd"))
        )
    assert [answer.usage and answer.usage.completion_tokens for answer in answers] == [20, 20]
    assert engine.stats().num_steps < 35


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_pages(http_of: Http, stream: bool) -> None:
    engine = babbles(SlowModel)
    http = http_of(engine)
    body = {"model": "tiny", "prompt": "x", "max_tokens": 400, "stream": stream}
    if stream:
        with http.stream("POST", "/v1/completions", json=body) as response:
            lines = response.iter_lines()  # held, since httpx closes the connection of an iterator nobody holds
            next(lines)
            assert engine.stats().num_running == 1
    else:
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/completions", json=body, timeout=0.5)
    until(lambda: engine.stats().num_running == 0)
    assert engine.stats().num_free_pages == engine.stats().num_pages
    assert engine.stats().num_steps < 300
    assert 'autodeploy_http_requests_total{end="cut"} 1.0' in http.get("/metrics").text


def test_a_failing_engine_tells_everybody(http_of: Http) -> None:
    http = http_of(babbles(FailingModel))
    assert http.get("/health").status_code == 200
    body = {"model": "tiny", "prompt": "x", "max_tokens": 9}
    streamed = list(events(http.post("/v1/completions", json={**body, "stream": True}).text))
    assert "the engine failed: ZeroDivisionError: out of luck" in streamed[-1]["error"]["message"]
    assert http.get("/health").status_code == 503
    later = http.post("/v1/completions", json=body)
    assert later.status_code == 503
    assert later.json()["error"]["type"] == "server_error"


def test_metrics(http_of: Http) -> None:
    http = http_of(babbles())
    for stream in (True, False):
        http.post("/v1/completions", json={"model": "tiny", "prompt": "xyz", "max_tokens": 5, "stream": stream})
    lines = http.get("/metrics").text.splitlines()
    assert "autodeploy_num_generated_tokens_total 10.0" in lines
    assert "autodeploy_num_prompt_tokens_total 6.0" in lines
    assert "autodeploy_num_running 0.0" in lines
    assert 'autodeploy_http_requests_total{end="done"} 2.0' in lines
    assert "autodeploy_first_token_seconds_count 1.0" in lines
