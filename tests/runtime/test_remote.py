"""A core in another process says what one in this process says, and its end is noticed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from autodeploy.errors import EngineError, RecipeError, RequestError
from autodeploy.runtime.engine import Engine
from autodeploy.runtime.link import Link
from autodeploy.runtime.llm import LLM
from autodeploy.runtime.messages import Start
from autodeploy.runtime.protocol import Core
from autodeploy.runtime.remote import RemoteCore
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.settings import RuntimeSettings
from tests.runtime.fakes import ByteTokenizer, FakeModel

Connect = Callable[[str], RemoteCore]
SETTINGS: dict[str, Any] = {"num_pages": 32, "page_size": 4}


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as stack:

        def start(name: str) -> RemoteCore:
            link = Link([sys.executable, "-m", "tests.runtime.fake_worker"])
            stack.callback(link.close)
            link.send(Start(name, "auto", None, SETTINGS))
            return RemoteCore(link)

        yield start


def until_free(core: Core) -> None:
    """Wait for gauges that say that nobody holds a page."""
    deadline = time.monotonic() + 5
    while core.stats().num_free_pages < SETTINGS["num_pages"]:
        assert time.monotonic() < deadline


def step_often(engine: Engine) -> None:
    for _ in range(5):
        engine.step()


def test_it_answers_as_a_core_in_this_process_does(connect: Connect) -> None:
    core = connect("works")
    assert list(core.notes) == ["a note"]
    here = LLM(Engine.of(FakeModel(vocab_size=257), ByteTokenizer(), RuntimeSettings(**SETTINGS)))
    there = LLM(Engine(core, ByteTokenizer()))
    params = [
        SamplingParams(temperature=0, max_tokens=9),
        SamplingParams(n=2, seed=3, max_tokens=5, logprobs=2, prompt_logprobs=1),
        SamplingParams(seed=4, max_tokens=20, stop=["a", "e"], logit_bias={5: 1.5}),
    ]
    prompts = ["one", "two", "three"]
    assert there.generate(prompts, params) == here.generate(prompts, params)
    until_free(core)
    assert core.stats().num_prompt_tokens == here.engine.stats().num_prompt_tokens
    with pytest.raises(RequestError, match="has 70 tokens"):
        there.generate("x" * 70)
    assert not there.engine.has_unfinished


def test_an_abort_frees_everything(connect: Connect) -> None:
    engine = Engine(connect("works"), None)
    engine.add_request("one", [1, 2, 3], SamplingParams(max_tokens=None, ignore_eos=True))
    engine.step()
    assert engine.abort("one") is not None
    assert not engine.has_unfinished
    until_free(engine.core)


def test_what_cannot_be_loaded_is_bad_input(connect: Connect) -> None:
    with pytest.raises(RecipeError.__base__, match="no such thing; did you mean another"):  # type: ignore[arg-type]
        connect("refuses")


@pytest.mark.parametrize(
    ("end", "sentence"),
    [
        ("fails", "ZeroDivisionError: out of luck"),
        pytest.param("dies", "has ended with exit code 9", marks=pytest.mark.slow),
    ],
)
def test_an_engine_that_ends_is_noticed(connect: Connect, end: str, sentence: str) -> None:
    engine = Engine(connect(end), None)
    engine.add_request("one", [1, 2, 3], SamplingParams(max_tokens=None))
    with pytest.raises(EngineError, match=sentence):
        step_often(engine)


def test_the_process_ends_with_its_owner(connect: Connect) -> None:
    core = connect("works")
    process = core._link.process
    core.close()
    assert process.poll() == 0
