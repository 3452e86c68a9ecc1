from __future__ import annotations

import pytest

from autodeploy.errors import RequestError
from autodeploy.runtime.batch import Batch
from autodeploy.runtime.request import Request, Status
from autodeploy.runtime.sampling_params import SamplingParams
from autodeploy.runtime.scheduler import Scheduler
from autodeploy.runtime.settings import RuntimeSettings
from tests.runtime.fakes import new_request


def new_scheduler(
    num_pages: int = 64,
    *,
    page_size: int = 4,
    batch: int = 8,
    budget: int = 32,
    prompts: int | None = None,
    reuse: bool = True,
    max_len: int = 256,
) -> Scheduler:
    settings = RuntimeSettings(
        page_size=page_size,
        max_batch_size=batch,
        max_num_tokens=budget,
        prefill_budget=prompts,
        num_pages=num_pages,
        prefix_reuse=reuse,
    )
    return Scheduler(settings, num_pages, max_len)


def add(scheduler: Scheduler, start: int, length: int, max_tokens: int = 100) -> Request:
    request = new_request(
        range(start, start + length), SamplingParams(max_tokens=max_tokens), max_len=scheduler.max_len
    )
    scheduler.add(request)
    return request


def step(scheduler: Scheduler, token_id: int = 1) -> Batch:
    batch = scheduler.schedule()
    scheduler.expect(batch)
    scheduler.settle(batch, [token_id] * len(batch.sampling))
    scheduler.check_integrity()
    return batch


def shape(batch: Batch) -> list[tuple[int, int, bool]]:
    return [(item.first, item.num_tokens, item.samples) for item in batch.items]


def test_a_prompt_is_cut_to_the_budget_and_decodes_come_first() -> None:
    scheduler = new_scheduler(budget=8)
    add(scheduler, 0, 5)
    assert shape(step(scheduler)) == [(0, 5, True)]
    add(scheduler, 100, 16)
    assert shape(step(scheduler)) == [(5, 1, True), (0, 7, False)]
    assert shape(step(scheduler)) == [(6, 1, True), (7, 7, False)]
    assert shape(step(scheduler)) == [(7, 1, True), (14, 2, True)]
    assert shape(step(scheduler)) == [(8, 1, True), (16, 1, True)]


def test_prompts_are_cut_shorter_where_others_decode() -> None:
    scheduler = new_scheduler(budget=16, prompts=3)
    add(scheduler, 0, 12, max_tokens=4)
    assert shape(step(scheduler)) == [(0, 12, True)]
    add(scheduler, 100, 20)
    add(scheduler, 200, 20)
    assert shape(step(scheduler)) == [(12, 1, True), (0, 2, False)]
    assert shape(step(scheduler)) == [(13, 1, True), (2, 2, False)]
    assert shape(step(scheduler)) == [(14, 1, True), (4, 2, False)]
    assert shape(step(scheduler)) == [(6, 14, True)], "nobody decodes any more"


def test_a_long_prompt_is_cut_into_few_sizes() -> None:
    scheduler = new_scheduler(2000, budget=8192, prompts=1024, max_len=20000)
    add(scheduler, 0, 7000, max_tokens=1)
    found = []
    while scheduler.has_unfinished:
        found += shape(step(scheduler))
    assert found == [(0, 4096, False), (4096, 2048, False), (6144, 856, True)]
    for start in (10000, 20000, 30000):
        add(scheduler, start, 1000, max_tokens=1)
    assert shape(step(scheduler)) == [(0, 1000, True), (0, 24, False)], "each of many prompts would wait for all"


def test_what_the_cache_holds_of_a_prompt_makes_no_step_long() -> None:
    scheduler = new_scheduler(2000, budget=8192, prompts=1024, max_len=20000)
    add(scheduler, 0, 4000, max_tokens=1)
    while scheduler.has_unfinished:
        step(scheduler)
    for last in range(10):
        scheduler.add(new_request([*range(3900), *[last] * 300], SamplingParams(max_tokens=1), max_len=20000))
    assert step(scheduler).num_tokens == 1024


def test_a_request_that_awaits_its_last_token_does_not_shorten_prompts() -> None:
    scheduler = new_scheduler(budget=16, prompts=3)
    add(scheduler, 0, 4, max_tokens=1)
    scheduler.expect(scheduler.schedule())
    add(scheduler, 100, 20)
    assert shape(scheduler.schedule()) == [(0, 16, False)]


def test_prompts_that_join_share_what_is_left_for_them() -> None:
    scheduler = new_scheduler(budget=16, prompts=5)
    add(scheduler, 0, 1)
    step(scheduler)
    for start in (100, 200):
        add(scheduler, start, 3)
    assert shape(step(scheduler)) == [(1, 1, True), (0, 3, True), (0, 1, False)]


def test_a_prompt_goes_on_however_many_others_decode() -> None:
    scheduler = new_scheduler(budget=8, prompts=2)
    for start in range(3):
        add(scheduler, 10 * start, 1)
    step(scheduler)
    step(scheduler)
    add(scheduler, 100, 4)
    assert shape(step(scheduler))[3:] == [(0, 1, False)]
    assert shape(step(scheduler))[3:] == [(1, 1, False)]


def test_requests_join_in_order_of_arrival_up_to_the_batch_size() -> None:
    scheduler = new_scheduler(batch=2)
    first, second, third = (add(scheduler, 10 * i, 3, max_tokens=2) for i in range(3))
    assert [item.request for item in step(scheduler).items] == [first, second]
    assert [item.request for item in step(scheduler).items] == [first, second]
    assert first.is_finished
    assert second.is_finished
    assert [item.request for item in step(scheduler).items] == [third]


def test_a_small_budget_bounds_the_batch() -> None:
    scheduler = new_scheduler(batch=8, budget=2)
    for i in range(4):
        add(scheduler, 10 * i, 1, max_tokens=3)
    while scheduler.has_unfinished:
        assert step(scheduler).num_tokens <= 2


def test_a_prefix_is_reused_but_for_the_last_token() -> None:
    scheduler = new_scheduler()
    add(scheduler, 0, 8)
    step(scheduler)
    add(scheduler, 0, 8)
    add(scheduler, 0, 9)
    add(scheduler, 0, 20)
    assert shape(step(scheduler))[1:] == [(4, 4, True), (8, 1, True), (8, 12, True)]
    assert scheduler.stats.num_reused_tokens == 4 + 8 + 8


def test_pages_are_found_while_the_step_that_fills_them_runs() -> None:
    scheduler = new_scheduler()
    add(scheduler, 0, 9)
    under_way = scheduler.schedule()
    assert scheduler.pool.find([new_request(range(9)).digest(0, 4)]) == [], "hashing waits until the device has work"
    scheduler.expect(under_way)
    add(scheduler, 0, 9)
    assert shape(scheduler.schedule())[1:] == [(8, 1, True)]


def test_siblings_share_pages_within_the_step_that_fills_them() -> None:
    scheduler = new_scheduler()
    one, two = add(scheduler, 0, 9), add(scheduler, 0, 9)
    assert shape(step(scheduler)) == [(0, 9, True), (8, 1, True)]
    assert one.pages[:2] == two.pages[:2]
    assert one.pages[2] != two.pages[2]


def test_nothing_is_reused_when_told_not_to() -> None:
    scheduler = new_scheduler(reuse=False)
    add(scheduler, 0, 9)
    add(scheduler, 0, 9)
    assert shape(step(scheduler)) == [(0, 9, True), (0, 9, True)]
    assert scheduler.pool.find([new_request(range(9)).digest(0, 4)]) == []


def test_prompt_logprobs_need_every_row() -> None:
    scheduler = new_scheduler()
    add(scheduler, 0, 9)
    step(scheduler)
    scheduler.add(new_request(range(9), SamplingParams(prompt_logprobs=1)))
    item = step(scheduler).items[1]
    assert (item.first, item.num_tokens, item.wants_prompt_rows) == (0, 9, True)
    assert not step(scheduler).items[1].wants_prompt_rows


def test_the_latest_arrival_gives_way_and_loses_nothing() -> None:
    scheduler = new_scheduler(num_pages=6, reuse=False)
    early, late = add(scheduler, 0, 7), add(scheduler, 100, 7)
    for token_id in range(1, 20):
        step(scheduler, token_id)
        if late.status is Status.WAITING:
            break
    assert scheduler.stats.num_preemptions == 1
    assert early.status is Status.RUNNING
    assert late.pages == []
    assert list(late.token_ids[:7]) == list(range(100, 107))
    known = late.num_tokens
    assert [item.request for item in step(scheduler).items] == [early]
    scheduler.finish(early, "abort")
    assert shape(step(scheduler)) == [(0, known, True)]


def test_a_newcomer_leaves_room_for_those_who_run() -> None:
    scheduler = new_scheduler(num_pages=4, reuse=False)
    add(scheduler, 0, 7)
    step(scheduler)
    late = add(scheduler, 100, 7)
    step(scheduler)
    assert late.status is Status.WAITING


def test_a_cancelled_request_frees_its_pages_at_once() -> None:
    scheduler = new_scheduler(num_pages=8, budget=4)
    running, waiting = add(scheduler, 0, 9), add(scheduler, 100, 9)
    step(scheduler)
    assert scheduler.pool.num_free < 8
    scheduler.finish(running, "abort")
    scheduler.finish(waiting, "abort")
    assert scheduler.pool.num_free == 8
    assert not scheduler.has_unfinished
    scheduler.check_integrity()


@pytest.mark.parametrize(("num_pages", "max_len", "longest"), [(64, 20, 19), (2, 100, 7)])
def test_a_prompt_too_long_for_the_model_or_the_cache_is_refused(num_pages: int, max_len: int, longest: int) -> None:
    scheduler = new_scheduler(num_pages, max_len=max_len)
    add(scheduler, 0, longest)
    with pytest.raises(RequestError, match=f"has {longest + 1} tokens; at most {longest} can be served"):
        add(scheduler, 0, longest + 1)
    with pytest.raises(RequestError, match="empty"):
        add(scheduler, 0, 0)
    assert len(scheduler.waiting) == 1


@pytest.mark.parametrize(("num_pages", "max_len", "total"), [(64, 20, 20), (3, 100, 12)])
def test_a_request_that_outgrows_model_or_cache_ends_with_length(num_pages: int, max_len: int, total: int) -> None:
    scheduler = new_scheduler(num_pages, max_len=max_len)
    request = add(scheduler, 0, 5, max_tokens=500)
    while scheduler.has_unfinished:
        step(scheduler)
    assert (request.num_tokens, request.finish_reason) == (total, "length")


def test_stop_tokens_end_a_request_after_min_tokens() -> None:
    scheduler = new_scheduler()
    params = SamplingParams(min_tokens=2, stop_token_ids=[9], max_tokens=50)
    request = Request("id", [1, 2], params, max_len=100, seed=0, eos_token_ids=frozenset({5}))
    scheduler.add(request)
    for token_id in (9, 5, 3):
        step(scheduler, token_id)
        assert not request.is_finished
    step(scheduler, 9)
    assert (request.finish_reason, request.stop_reason) == ("stop", 9)


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_the_end_of_sequence_can_be_ignored(ignore_eos: bool) -> None:
    scheduler = new_scheduler()
    params = SamplingParams(ignore_eos=ignore_eos, max_tokens=3)
    request = Request("id", [1, 2], params, max_len=100, seed=0, eos_token_ids=frozenset({5}))
    scheduler.add(request)
    step(scheduler, 5)
    assert request.is_finished is not ignore_eos
    assert request.stop_reason is None


def test_the_runner_hears_of_each_page_once() -> None:
    scheduler = new_scheduler(reuse=False)
    request = add(scheduler, 0, 7)
    told: list[int] = []
    for _ in range(12):
        item = step(scheduler).items[0]
        told = told[: item.first_new_page] + request.pages[item.first_new_page :]
        assert item.first_new_page <= len(told)
        assert told == request.pages
