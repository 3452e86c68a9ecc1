"""A request: one sequence being generated."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from enum import IntEnum

from autodeploy.runtime.outputs import FinishReason
from autodeploy.runtime.sampling_params import SamplingParams


class Status(IntEnum):
    """Where a request stands."""

    WAITING = 0
    RUNNING = 1
    FINISHED = 2


class Request:
    """One sequence: its tokens, how far the cache holds them, and the pages it holds while it runs.

    A prompt asked for with `n > 1` is n requests with the same `parent_id` and the indices 0 to n - 1. It ends with
    "length" when it has `max_len` tokens, prompt included.
    """

    def __init__(
        self,
        parent_id: str,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        max_len: int,
        seed: int,
        index: int = 0,
        eos_token_ids: frozenset[int] = frozenset(),
    ) -> None:
        self.parent_id = parent_id
        self.index = index
        self.params = params
        self.token_ids = array("q", prompt_token_ids)
        self.num_prompt = len(self.token_ids)
        self.max_len = max_len if params.max_tokens is None else min(max_len, self.num_prompt + params.max_tokens)
        self.eos_token_ids: frozenset[int] = frozenset() if params.ignore_eos else eos_token_ids
        self.stop_ids = frozenset(params.stop_token_ids or ()) | self.eos_token_ids
        self.takes_argmax = params.is_greedy and not params.logit_bias and not params.has_penalties
        self._collects_prompt = params.prompt_logprobs is not None and index == 0
        self.draw_key = _draw_key(seed, index)
        self.status = Status.WAITING
        self.finish_reason: FinishReason | None = None
        self.stop_reason: int | str | None = None
        self.num_computed = 0
        self.num_expected = 0  # tokens that a step has sampled, or will have, and that nobody has read yet
        self.row = 0  # its row in the runner's tables; it means something only while RUNNING
        self.pages: list[int] = []
        self.num_shown_pages = 0  # how many of `pages` a batch has already told the runner
        self.num_registered_pages = 0
        self._digests: list[bytes] = []

    @property
    def num_tokens(self) -> int:
        """The prompt, what was generated, and what is expected."""
        return len(self.token_ids) + self.num_expected

    @property
    def num_output(self) -> int:
        """Tokens generated, as far as they are known."""
        return len(self.token_ids) - self.num_prompt

    @property
    def num_drawn(self) -> int:
        """Tokens generated, the expected ones too: the position of the next draw."""
        return self.num_tokens - self.num_prompt

    @property
    def needs_known_tokens(self) -> bool:
        """Whether sampling the next token takes the values of all before it, on the host."""
        return self.params.has_penalties or self.params.logprobs is not None

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will be generated."""
        return self.status is Status.FINISHED

    @property
    def wants_prompt_rows(self) -> bool:
        """Whether the logits of prompt tokens are still asked for. Siblings leave that to the first of them."""
        return self._collects_prompt and self.num_tokens == self.num_prompt

    def digest(self, page: int, page_size: int) -> bytes:
        """Name the contents of its full page number `page`: a hash of every token up to the page's end."""
        while len(self._digests) <= page:
            start = len(self._digests) * page_size
            parent = self._digests[-1] if self._digests else b""
            tokens = self.token_ids[start : start + page_size]
            assert len(tokens) == page_size, "only full pages have a digest"
            self._digests.append(hashlib.blake2b(parent + tokens.tobytes(), digest_size=32).digest())
        return self._digests[page]

    def start(self, row: int, pages: list[int], num_reused_pages: int, num_reused_tokens: int) -> None:
        """WAITING to RUNNING, on `pages` of which the first ones already hold its first tokens."""
        assert self.status is Status.WAITING
        self.status = Status.RUNNING
        self.row = row
        self.pages = pages
        self.num_shown_pages = 0
        self.num_registered_pages = num_reused_pages
        self.num_computed = num_reused_tokens

    def preempt(self) -> list[int]:
        """RUNNING to WAITING: give its pages back; its tokens stay, and are computed again when it restarts."""
        assert self.status is Status.RUNNING
        self.status = Status.WAITING
        return self._leave()

    def finish(self, reason: FinishReason, stop_reason: int | str | None = None) -> list[int]:
        """End for `reason`: give the pages back that it still holds."""
        self.status = Status.FINISHED
        self.finish_reason = reason
        self.stop_reason = stop_reason
        return self._leave()

    def append(self, token_id: int) -> FinishReason | None:
        """Take a generated token; the reason to end here, if there is one."""
        self.token_ids.append(token_id)
        if token_id in self.stop_ids and self.num_output > self.params.min_tokens:
            return "stop"
        return "length" if len(self.token_ids) >= self.max_len else None

    def _leave(self) -> list[int]:
        pages, self.pages = self.pages, []
        self.num_computed = 0
        return pages


def _draw_key(seed: int, index: int) -> int:
    """Spread a seed and the index among n siblings over 64 bits, so that close seeds draw unrelated numbers."""
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
