from __future__ import annotations

from typing import Any

import pytest
import torch

from autodeploy.errors import RecipeError, RequestError
from autodeploy.runtime.engine import Engine
from autodeploy.runtime.outputs import RequestOutput
from autodeploy.runtime.prompts import Prompt
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.settings import RuntimeSettings
from tests.runtime.fakes import ByteTokenizer, FakeModel, ScriptedModel, history_logits, scheduler_of

EOS = 256


def says(text: str, **settings: Any) -> Engine:
    """An engine that answers `text` and the end of sequence to any prompt of one token."""
    return Engine.of(
        ScriptedModel([*text.encode(), EOS], 1), ByteTokenizer(), RuntimeSettings(num_pages=64, **settings), [EOS]
    )


def drain(engine: Engine) -> list[RequestOutput]:
    outputs = []
    while engine.has_unfinished:
        outputs += engine.step()
        scheduler_of(engine).check_integrity()
    return outputs


def answer(engine: Engine, prompt: Prompt, **params: Any) -> RequestOutput:
    engine.add_request("it", prompt, SamplingParams(**{"temperature": 0, "max_tokens": None} | params), stream=False)
    (output,) = drain(engine)
    assert output.finished
    return output


def test_a_stream_says_what_is_new_in_each_step() -> None:
    engine = says("aé!")
    engine.add_request("it", "x", SamplingParams(temperature=0, max_tokens=None))
    outputs = drain(engine)
    assert [output.outputs[0].text for output in outputs] == ["a", "", "é", "!", ""]
    assert [output.outputs[0].token_ids for output in outputs] == [[token] for token in [*"aé!".encode(), EOS]]
    assert [output.finished for output in outputs] == [False] * 4 + [True]
    assert outputs[-1].outputs[0].finish_reason == "stop"
    assert outputs[-1].outputs[0].stop_reason is None
    assert (outputs[0].prompt, outputs[0].prompt_token_ids) == ("x", [120])


def test_without_a_stream_there_is_one_output() -> None:
    (completion,) = answer(says("hello"), "x").outputs
    assert (completion.text, completion.token_ids) == ("hello", [*b"hello", EOS])


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("params", "text", "num_tokens", "reason", "stop_reason"),
    [
        ({"stop": ["lo w"]}, "hel", 7, "stop", "lo w"),
        ({"stop": "lo w", "include_stop_str_in_output": True}, "hello w", 7, "stop", "lo w"),
        ({"stop": "lo w", "min_tokens": 8}, "hello world", 12, "stop", None),
        ({"stop": ["lo x"]}, "hello world", 12, "stop", None),
        ({"stop": "lo", "max_tokens": 5}, "hel", 5, "stop", "lo"),
        ({"stop": "lo w", "max_tokens": 5}, "hello", 5, "length", None),
        ({"stop_token_ids": [111]}, "hell", 5, "stop", 111),
        ({"stop_token_ids": [111], "include_stop_str_in_output": True}, "hello", 5, "stop", 111),
        ({"ignore_eos": True, "max_tokens": 13}, "hello worldh", 13, "length", None),
        ({"ignore_eos": True, "max_tokens": 13, "skip_special_tokens": False}, "hello world<eos>h", 13, "length", None),
        ({"detokenize": False}, "", 12, "stop", None),
    ],
)
def test_how_an_answer_ends(
    stream: bool, params: dict[str, Any], text: str, num_tokens: int, reason: str, stop_reason: object
) -> None:
    engine = says("hello world")
    engine.add_request("it", "x", SamplingParams(**{"temperature": 0, "max_tokens": None} | params), stream=stream)
    outputs = drain(engine)
    assert "".join(output.outputs[0].text for output in outputs) == text
    assert sum(len(output.outputs[0].token_ids) for output in outputs) == num_tokens
    assert (outputs[-1].outputs[0].finish_reason, outputs[-1].outputs[0].stop_reason) == (reason, stop_reason)


def test_siblings_have_one_output_and_their_own_draws() -> None:
    engine = Engine.of(FakeModel(), None, RuntimeSettings(num_pages=64, page_size=4))
    params = SamplingParams(n=3, seed=5, max_tokens=8)
    output = answer(engine, [1, 2, 3, 4, 5], n=3, seed=5, max_tokens=8, temperature=1)
    assert [completion.index for completion in output.outputs] == [0, 1, 2]
    assert len({tuple(completion.token_ids) for completion in output.outputs}) == 3
    engine.add_request("again", [1, 2, 3, 4, 5], params)
    streamed: dict[int, list[int]] = {}
    outputs = drain(engine)
    for one in outputs:
        for completion in one.outputs:
            streamed.setdefault(completion.index, []).extend(completion.token_ids)
    assert [one.finished for one in outputs] == [False] * (len(outputs) - 1) + [True]
    assert [streamed[index] for index in range(3)] == [completion.token_ids for completion in output.outputs]


def test_unseeded_requests_differ() -> None:
    engine = Engine.of(FakeModel(), None, RuntimeSettings(num_pages=64))
    answers = {tuple(answer(engine, [1], temperature=1, max_tokens=20).outputs[0].token_ids) for _ in range(3)}
    assert len(answers) == 3


@pytest.mark.parametrize("budget", [3, 64])
def test_logprobs_are_of_the_raw_logits(budget: int) -> None:
    settings = RuntimeSettings(num_pages=64, page_size=4, max_num_tokens=budget)
    engine = Engine.of(FakeModel(), None, settings)
    prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    answer(engine, prompt)  # its pages could be reused
    output = answer(engine, prompt, logprobs=2, prompt_logprobs=1, max_tokens=5, temperature=0.7, presence_penalty=1)
    (completion,) = output.outputs
    expected = torch.log_softmax(history_logits([*prompt, *completion.token_ids], 32).double(), dim=-1)
    assert output.prompt_logprobs is not None
    assert output.prompt_logprobs[0] is None
    for place, row in enumerate(output.prompt_logprobs[1:], start=1):
        assert row is not None
        assert row[prompt[place]].logprob == pytest.approx(expected[place - 1, prompt[place]].item(), abs=1e-5)
        best = int(expected[place - 1].argmax())
        assert row[best].rank == 1
    assert completion.logprobs is not None
    for place, (token_id, found) in enumerate(zip(completion.token_ids, completion.logprobs, strict=True)):
        row_of = expected[len(prompt) - 1 + place]
        assert next(iter(found)) == token_id
        assert found[token_id].logprob == pytest.approx(row_of[token_id].item(), abs=1e-5)
        assert found[token_id].rank == int((row_of > row_of[token_id]).sum()) + 1
        assert set(row_of.topk(2).indices.tolist()) <= set(found)
    total = sum(found[token].logprob for token, found in zip(completion.token_ids, completion.logprobs, strict=True))
    assert completion.cumulative_logprob == pytest.approx(total)


def test_logprobs_have_the_tokens_text() -> None:
    output = answer(says("hi"), "x", logprobs=0)
    assert output.outputs[0].logprobs is not None
    assert [[one.decoded_token for one in row.values()] for row in output.outputs[0].logprobs] == [
        ["h"],
        ["i"],
        ["<eos>"],
    ]


def test_an_aborted_request_frees_its_pages_and_flushes_its_text() -> None:
    engine = says("abc")
    engine.add_request("it", "x", SamplingParams(temperature=0, n=2, stop="bz", max_tokens=None), stream=True)
    engine.add_request("other", "x", SamplingParams(temperature=0, max_tokens=3), stream=False)
    engine.step()
    engine.step()
    output = engine.abort("it")
    assert output is not None
    assert output.finished
    assert [(one.text, one.finish_reason) for one in output.outputs] == [("b", "abort")] * 2
    assert engine.stats().num_running == 1
    assert engine.abort("it") is None
    assert engine.abort("unknown") is None
    assert [one.request_id for one in drain(engine)] == ["other"]
    assert engine.stats().num_free_pages == 64


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ("", {}, "the prompt is empty"),
        ("x" * 512, {}, "the prompt has 512 tokens; at most 511 can be served here"),
        ([1, 257], {}, "the prompt has token id 257; this model has 0 to 256"),
        ([1, -1], {}, "the prompt has token id -1"),
        (7, {}, "a prompt is a string or a list of token ids, got 7"),
        ([1, "a"], {}, "a prompt is a string or a list of token ids"),
        ([1, True], {}, "a prompt is a string or a list of token ids"),
        ({"promt": "x"}, {}, "a prompt has no key 'promt'; did you mean 'prompt'?"),
        ({}, {}, "either 'prompt' or 'prompt_token_ids'"),
        ("x", {"logit_bias": {300: 1.0}}, "logit_bias has token id 300"),
        ("x", {"stop_token_ids": [-5]}, "stop_token_ids has token id -5"),
    ],
)
def test_a_bad_request_is_refused_and_disturbs_nobody(prompt: Any, params: dict[str, Any], message: str) -> None:
    engine = says("hello")
    engine.add_request("good", "x", SamplingParams(temperature=0), stream=False)
    engine.step()
    with pytest.raises(RequestError, match=message.replace("?", r"\?")):
        engine.add_request("bad", prompt, SamplingParams(**params))
    (output,) = drain(engine)
    assert output.outputs[0].text == "hello"
    engine.add_request("bad", "x", SamplingParams())
    with pytest.raises(RequestError, match="'bad' is still in use"):
        engine.add_request("bad", "x", SamplingParams())


def test_without_a_tokenizer_text_is_refused() -> None:
    engine = Engine.of(FakeModel(), None, RuntimeSettings(num_pages=4))
    with pytest.raises(RequestError, match="no tokenizer"):
        engine.add_request("it", "text")
    with pytest.raises(RequestError, match="stop strings need a tokenizer"):
        engine.add_request("it", [1], SamplingParams(stop="x"))


def test_settings_must_fit_the_model() -> None:
    with pytest.raises(RecipeError, match="max_model_len=100 is more than the 64"):
        Engine.of(FakeModel(), None, RuntimeSettings(max_model_len=100))
    with pytest.raises(RecipeError, match="a cache of 100 bytes holds no page; one page takes 256 bytes"):
        Engine.of(FakeModel(), None, RuntimeSettings(cache_bytes=100))
    assert Engine.of(FakeModel(), None, RuntimeSettings(cache_bytes=1000)).stats().num_pages == 3
    assert Engine.of(FakeModel(), None, RuntimeSettings(max_batch_size=8)).stats().num_pages == 8 * 4
    assert Engine.of(FakeModel(), None, RuntimeSettings(max_model_len=20)).max_len == 20


def test_preempted_requests_say_the_same() -> None:
    prompts = [[i, 2, 3] for i in range(6)]
    answers = []
    for num_pages in (100, 13):
        engine = Engine.of(FakeModel(), None, RuntimeSettings(num_pages=num_pages, page_size=4))
        for i, prompt in enumerate(prompts):
            engine.add_request(str(i), prompt, SamplingParams(seed=i, max_tokens=30, logprobs=0), stream=False)
        answers.append({output.request_id: output.outputs for output in drain(engine)})
        assert (engine.stats().num_preemptions > 0) is (num_pages == 13)
    assert answers[0] == answers[1]


def test_stats_count() -> None:
    engine = Engine.of(FakeModel(), None, RuntimeSettings(num_pages=16, page_size=4, max_batch_size=1))
    for name in ("one", "two"):
        engine.add_request(name, [1, 2, 3, 4, 5], SamplingParams(max_tokens=2))
    engine.step()
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_pages, stats.num_free_pages) == (1, 1, 16, 14)
    drain(engine)
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_free_pages) == (0, 0, 16)
    assert (stats.num_steps, stats.num_generated_tokens, stats.num_prompt_tokens, stats.num_reused_tokens) == (
        4,
        4,
        10,
        4,
    )
    assert engine.step() == []


def test_the_next_step_runs_before_the_last_is_read() -> None:
    engine = says("abc", overlap=True)
    engine.add_request("it", "x", SamplingParams(temperature=0, max_tokens=None))
    assert engine.step() == []
    (first,) = engine.step()
    assert first.outputs[0].text == "a"
    assert engine.stats().num_steps == 2
    texts = [output.outputs[0].text for output in drain(engine)]
    assert texts == ["b", "c", ""]
    assert engine.stats().num_steps == 5  # one for the token behind the last, which nobody asked for
    assert engine.stats().num_generated_tokens == 4
    assert engine.stats().num_free_pages == engine.stats().num_pages


def test_a_length_that_is_known_costs_no_extra_step() -> None:
    engine = says("abc", overlap=True)
    answer(engine, "x", max_tokens=2, ignore_eos=True)
    assert engine.stats().num_steps == 2


@pytest.mark.parametrize("options", [{"logprobs": 1}, {"presence_penalty": 0.5}])
def test_a_request_that_needs_known_tokens_makes_steps_wait(options: dict[str, Any]) -> None:
    engine = says("abc", overlap=True)
    answer(engine, "x", **options)
    assert engine.stats().num_steps == 4


def test_an_abort_while_a_step_is_under_way_frees_everything() -> None:
    engine = says("abc", overlap=True)
    for request_id in ("one", "two"):
        engine.add_request(request_id, "x", SamplingParams(temperature=0, max_tokens=None))
    engine.step()
    engine.abort("one")
    assert {output.request_id for output in drain(engine)} == {"two"}
    assert engine.stats().num_free_pages == engine.stats().num_pages
