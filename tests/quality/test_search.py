"""Searching an assignment, over losses that are made up."""

from __future__ import annotations

from itertools import product

import pytest

from autodeploy.errors import InputError
from autodeploy.quality import Quality
from autodeploy.quality.search import Assignment, Found, Limits, assign, bits_of, search
from autodeploy.quality.sensitivity import Sensitivity, Unit
from autodeploy.quantization import SCHEMES, Projection, decide

UNITS = tuple(Unit((f"model.layers.{n}.mlp.up_proj",), ((256, 128 * (n + 1)),)) for n in range(4))
NAMES = ("int4", "int8")
LOSSES = {
    (unit, name): loss
    for (unit, name), loss in zip(
        product(UNITS, NAMES), (0.02, 0.001, 0.005, 0.002, 0.04, 0.0, 0.001, 0.0005), strict=True
    )
}
SENSITIVITIES = tuple(Sensitivity(unit, name, loss) for (unit, name), loss in LOSSES.items())


def loss_of(assignment: Assignment) -> float:
    return sum(LOSSES.get((unit, name), 0) for unit, name in assignment.schemes.items())


def quality(kl: float, agreement: float = 1.0) -> Quality:
    return Quality(100, 10, 10, kl, agreement)


def test_bits_count_the_scales() -> None:
    unit = Unit(("up", "gate"), ((256, 128), (256, 128)))
    assert bits_of(unit, "none") == 2 * 256 * 128 * 16
    assert bits_of(unit, "int8") == 2 * 256 * (128 * 8 + 32)
    assert bits_of(unit, "int4") == 2 * 256 * (128 * 4 + 16)


@pytest.mark.parametrize("budget", [0.0, 0.0005, 0.003, 0.009, 0.03, 1.0])
def test_no_cheaper_assignment_on_the_frontier_keeps_to_the_budget(budget: float) -> None:
    """Next to all assignments: within the budget, and no other has both fewer bits and a smaller loss."""
    found = assign(SENSITIVITIES, budget)
    assert loss_of(found) <= budget
    for names in product(("none", *NAMES), repeat=len(UNITS)):
        other = Assignment(dict(zip(UNITS, names, strict=True)))
        assert not (other.bits < found.bits and loss_of(other) < loss_of(found))


def test_a_budget_of_nothing_and_of_everything() -> None:
    assert assign(SENSITIVITIES, 1.0).schemes == dict.fromkeys(UNITS, "int4")
    free = {unit: name for (unit, name), loss in LOSSES.items() if not loss}
    assert assign(SENSITIVITIES, 0.0).schemes == {unit: free.get(unit, "none") for unit in UNITS}


def test_the_rules_say_the_assignment() -> None:
    assignment = assign(SENSITIVITIES, 0.009)
    for unit, name in assignment.schemes.items():
        assert decide(Projection(unit.names[0], unit.shapes[0]), assignment.rules(), "none").scheme == SCHEMES[name]


def test_search_uses_up_what_the_limits_allow() -> None:
    """Where losses are twice what they add up to."""
    tried: list[Found] = []
    found = search(SENSITIVITIES, Limits(max_kl=0.03), lambda one: quality(2 * loss_of(one)), tried.append)
    assert found.quality.kl <= 0.03
    assert len(tried) > 1
    assert found.assignment.bits == min(one.assignment.bits for one in tried if one.quality.kl <= 0.03)


def test_search_by_agreement() -> None:
    found = search(SENSITIVITIES, Limits(min_agreement=0.99), lambda one: quality(0, 1 - loss_of(one)))
    assert found.quality.agreement >= 0.99
    assert found.assignment.bits < 16


def test_search_in_vain() -> None:
    with pytest.raises(InputError, match=r"nothing within the limits: the KL divergence is 0\.5000 .* allows 0\.01"):
        search(SENSITIVITIES, Limits(max_kl=0.01), lambda _: quality(0.5))


def test_what_limits_say() -> None:
    assert Limits().why_not(quality(9, 0)) is None
    assert Limits(max_kl=0.1).why_not(quality(0.05)) is None
    assert Limits(min_agreement=0.9).why_not(quality(0, 0.8)) == (
        "80.00% of tokens agree, and --min-agreement asks for 90.00%"
    )
