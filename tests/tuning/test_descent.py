"""Choosing among what is close by the time of a layer, with times that are pretended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from typing import Any

import pytest

from autodeploy.kernels.attention import Attention
from autodeploy.tuning import Choice, Choices, Matmul, Site
from autodeploy.tuning.choices import Way
from autodeploy.tuning.descent import Seconds, descend, settle, settled_choices
from autodeploy.tuning.measure import Candidate, fastest

UP, DOWN = Matmul(12, 8, "float32"), Matmul(8, 12, "float32")
ATTENTION = Attention(4, 2, 16, 16, "float32", "float32", prompt=False)
RING, VECTOR = Way("tma", {"ring": True}, 8e-6), Way("triton", {"block": 2}, 9e-6)


def choice(rows: int, *others: Way) -> Choice:
    """The ring, which is the fastest alone."""
    return Choice(rows, RING.backend, RING.config, RING.seconds, close=others)


def layer_of(seconds: Mapping[str, float], noise: float = 0.0) -> Seconds:
    """A layer that takes so long with each backend at any site, and now and then a little longer."""
    turn = count()
    return lambda chosen: sum(seconds[one.backend] for one in chosen.values()) + noise * (next(turn) * 7 % 5)


def test_what_is_second_alone_and_first_in_the_layer_is_taken() -> None:
    alone: dict[Site, Choice] = {UP: choice(1, VECTOR), DOWN: choice(1)}
    settled = descend(1, alone, layer_of({"tma": 40e-6, "triton": 36e-6}))
    assert settled.changed == (UP,)
    assert settled.chosen[DOWN] == alone[DOWN], "nothing is close to it"
    assert (settled.seconds_before, settled.seconds) == pytest.approx((80e-6, 76e-6))
    new = settled.chosen[UP]
    assert new.way == VECTOR
    assert new.close == (RING,)
    assert (new.runner_up, new.runner_up_seconds) == ("tma ring True", 8e-6)
    assert str(new).endswith("(then tma ring True, 8.0); a layer takes 76.0 us with it, 80.0 without")
    assert str(settled) == (
        "a layer of 1 row takes 76.0 us, where what is fastest alone takes 80.0: [12, 8] float32 by triton block 2"
    )


@pytest.mark.parametrize("gain", [0.0, 0.1e-6, 0.6e-6, -1e-6])
def test_noise_changes_nothing(gain: float) -> None:
    alone: dict[Site, Choice] = {UP: choice(2, VECTOR), DOWN: choice(2, VECTOR)}
    settled = descend(2, alone, layer_of({"tma": 40e-6, "triton": 40e-6 - gain}, noise=0.5e-6))
    assert settled.chosen == alone
    assert not settled.changed
    assert "with what is fastest alone" in str(settled)


def test_neighbours_decide() -> None:
    """Each alone makes the layer slower than both: a site is tried again once another has changed."""
    alone: dict[Site, Choice] = {UP: choice(1, VECTOR), DOWN: choice(1, VECTOR)}
    seconds = {("tma", "tma"): 80e-6, ("tma", "triton"): 78e-6, ("triton", "triton"): 70e-6, ("triton", "tma"): 81e-6}
    settled = descend(1, alone, lambda chosen: seconds[chosen[UP].backend, chosen[DOWN].backend])
    assert settled.changed == (UP, DOWN)
    assert settled.seconds == 70e-6


def choices_of_all() -> Choices:
    """Attention was measured for fewer numbers of rows than the projection."""
    return Choices(
        {
            UP: tuple(choice(rows, VECTOR) for rows in (1, 2, 4, 8, 96)),
            ATTENTION: tuple(choice(rows, VECTOR) for rows in (1, 8, 64)),
        }
    )


def test_each_number_of_rows_is_settled_beside_what_runs_then() -> None:
    """Attention of 2 rows is that of 8, and is settled there alone."""
    seen: list[tuple[int, int]] = []

    def time_of(rows: int) -> Seconds:
        def seconds(chosen: Mapping[Site, Choice]) -> float:
            seen.append((rows, chosen[ATTENTION].rows))
            return 60e-6 if rows == 8 and chosen[ATTENTION].backend == "triton" else 64e-6

        return seconds

    settled = settle(choices_of_all(), (UP, ATTENTION), time_of)
    assert [one.rows for one in settled] == [64, 8, 4, 2, 1]
    assert dict(seen) == {64: 64, 8: 8, 4: 8, 2: 8, 1: 1}
    assert [one.changed for one in settled] == [(), (ATTENTION,), (), (), ()]
    final = choices_of_all().updated(settled_choices(settled))
    assert [one.backend for one in final.entries[ATTENTION]] == ["tma", "triton", "tma"]
    assert [one.rows for one in final.entries[UP]] == [1, 2, 4, 8, 96]


def test_what_was_settled_survives_json_and_older_files_are_read() -> None:
    settled = descend(1, {UP: choice(1, VECTOR)}, layer_of({"tma": 40e-6, "triton": 36e-6}))
    choices = settled_choices([settled])
    data: list[dict[str, Any]] = json.loads(json.dumps(choices.as_data()))
    assert data == choices.as_data(), "an artifact's manifest takes what JSON has, and nothing else"
    assert Choices.from_data(data) == choices
    assert data[0]["choices"][0]["layer_seconds"] == pytest.approx(36e-6)
    new = ("close", "layer_seconds", "layer_seconds_before")
    older = [
        {**one, "choices": [{k: v for k, v in each.items() if k not in new} for each in one["choices"]]} for one in data
    ]
    (old,) = Choices.from_data(older).entries[UP]
    assert old.way == VECTOR
    assert "layer" not in str(old)


def test_what_is_close_is_kept_with_the_fastest() -> None:
    times = [9.0, 8.0, 10.5, 9.1, 9.2, 9.3, 8.4]
    timed = [(time * 1e-6, Candidate(str(time), None, print, print)) for time in times]  # type: ignore[arg-type]
    found = fastest(1, timed, 0.0)
    assert found.backend == "8.0"
    assert [way.backend for way in found.close] == ["8.4", "9.0", "9.1", "9.2"], "the fastest of them"
    assert not fastest(1, timed[2:3], 0.0).close
    assert not fastest(1, [timed[1], timed[2]], 0.0).close, "a third slower is not close"
