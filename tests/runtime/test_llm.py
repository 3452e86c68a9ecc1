from __future__ import annotations

from typing import Any

import pytest

from autodeploy.errors import RequestError
from autodeploy.runtime.engine import Engine
from autodeploy.runtime.llm import LLM
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.settings import RuntimeSettings
from tests.runtime.fakes import ByteTokenizer, FakeModel

GREEDY = SamplingParams(temperature=0, max_tokens=4)


@pytest.fixture
def llm() -> LLM:
    return LLM(Engine.of(FakeModel(vocab_size=257), ByteTokenizer(), RuntimeSettings(num_pages=64), [256]))


@pytest.mark.parametrize("prompt", ["ab", [97, 98], {"prompt": "ab"}, {"prompt_token_ids": [97, 98]}])
def test_a_prompt_has_four_forms_alone_or_in_a_list(llm: LLM, prompt: Any) -> None:
    (expected,) = llm.generate("ab", GREEDY)
    for outputs in (llm.generate(prompt, GREEDY), llm.generate([prompt], GREEDY), llm.generate([prompt] * 2, GREEDY)):
        assert all(output.outputs == expected.outputs for output in outputs)
        assert outputs[0].prompt_token_ids == [97, 98]


def test_outputs_come_in_the_order_of_the_prompts(llm: LLM) -> None:
    lengths = [9, 2, 5]
    params = [SamplingParams(temperature=0, max_tokens=length, ignore_eos=True) for length in lengths]
    outputs = llm.generate(["a", "b", "c"], params)
    assert [output.prompt for output in outputs] == ["a", "b", "c"]
    assert [len(output.outputs[0].token_ids) for output in outputs] == lengths


def test_no_prompts_have_no_outputs(llm: LLM) -> None:
    assert llm.generate([]) == []


def test_params_must_be_one_or_as_many(llm: LLM) -> None:
    with pytest.raises(RequestError, match="2 prompts and 1 sampling params"):
        llm.generate(["a", "b"], [GREEDY])


def test_a_refused_prompt_leaves_nothing_behind(llm: LLM) -> None:
    with pytest.raises(RequestError, match="has 80 tokens"):
        llm.generate(["a", "b" * 80], GREEDY)
    assert not llm.engine.has_unfinished
    assert len(llm.generate("a", GREEDY)) == 1


def test_two_llms_may_share_an_engine() -> None:
    engine = Engine.of(FakeModel(vocab_size=257), ByteTokenizer(), RuntimeSettings(num_pages=8))
    assert LLM(engine).generate("a", GREEDY)[0].finished
    assert LLM(engine).generate("a", GREEDY)[0].finished


def test_chat_speaks_through_the_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hi"}]
    (output,) = llm.chat(messages, GREEDY)
    assert bytes(output.prompt_token_ids).decode() == "user: hi\nassistant: "
    assert output.outputs == llm.generate("user: hi\nassistant: ", GREEDY)[0].outputs
    assert len(llm.chat([messages, messages], GREEDY)) == 2
    (bare,) = llm.chat(messages, GREEDY, add_generation_prompt=False)
    assert bytes(bare.prompt_token_ids).decode() == "user: hi\n"


def test_what_the_template_refuses_is_a_request_error(llm: LLM) -> None:
    with pytest.raises(RequestError, match="the chat template refuses these messages: roles are user and assistant"):
        llm.chat([{"role": "clown", "content": "hi"}])


@pytest.mark.parametrize("messages", ["hi", ["hi"], [["hi"]], [{"role": "user", "content": "hi"}, "hi"]])
def test_what_is_no_conversation_is_a_request_error(llm: LLM, messages: Any) -> None:
    with pytest.raises(RequestError, match=r"messages are a list of \{'role': …, 'content': …\}, got "):
        llm.chat(messages)


def test_chat_needs_a_tokenizer() -> None:
    with pytest.raises(RequestError, match="chat needs a tokenizer"):
        LLM(Engine.of(FakeModel(), None, RuntimeSettings(num_pages=8))).chat([{"role": "user", "content": "hi"}])
