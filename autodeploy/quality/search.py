"""The assignment of schemes to projections that takes the fewest bytes and stays within a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from autodeploy.errors import InputError
from autodeploy.quality.compare import Quality
from autodeploy.quality.sensitivity import Sensitivity, Unit
from autodeploy.quantization import SCHEMES, Rule
from autodeploy.weights import Quantized, Stored

MAX_KL = 0.03
"""The loss in nats a token that `--quantize auto` allows when nobody says."""
ROUNDS = 5
BISECTIONS = 60


@dataclass(frozen=True)
class Limits:
    """How much quality a build may lose: the KL divergence in nats a token, the part of tokens that must agree."""

    max_kl: float | None = None
    min_agreement: float | None = None

    def why_not(self, quality: Quality) -> str | None:
        """What `quality` falls short of, or None."""
        if self.max_kl is not None and quality.kl > self.max_kl:
            return f"the KL divergence is {quality.kl:.4f} nats a token, and --max-kl allows {self.max_kl:g}"
        if self.min_agreement is not None and quality.agreement < self.min_agreement:
            return f"{quality.agreement:.2%} of tokens agree, and --min-agreement asks for {self.min_agreement:.2%}"
        return None


@dataclass(frozen=True)
class Assignment:
    """A scheme, by its name, for every unit of a model."""

    schemes: Mapping[Unit, str]

    @property
    def bits(self) -> float:
        """Bits a weight on average, scales included; of the weights of projections without the head."""
        total = sum(bits_of(unit, name) for unit, name in self.schemes.items())
        return total / sum(unit.num_weights for unit in self.schemes)

    def settings(self) -> dict[str, object]:
        """The settings of a recipe that say it."""
        return {"passes.mark_precision.rules": [rule.model_dump() for rule in self.rules()]}

    def rules(self) -> tuple[Rule, ...]:
        """The rules of a recipe that say it."""
        return tuple(Rule(match=name, scheme=scheme) for unit, scheme in self.schemes.items() for name in unit.names)


@cache
def bits_of(unit: Unit, name: str) -> int:
    """The bits that a unit's weights take under a scheme, with their scales; 16 each under `none`."""
    if not SCHEMES[name].is_quantized:
        return 16 * unit.num_weights
    weights = [Stored("", shape, torch.bfloat16) for shape in unit.shapes]
    return sum(8 * part.nbytes for weight in weights for part in Quantized.parts(weight, SCHEMES[name]).values())


def assign(sensitivities: Iterable[Sensitivity], budget: float) -> Assignment:
    """The fewest bits whose summed losses stay within `budget` nats a token; a unit that is left as it is loses none.

    Each unit takes what is least in bits plus price times loss, and the lowest price that keeps to the budget is
    searched for (Lagrangian relaxation: Everett, 1963). Losses of units are taken to add up.
    """
    options: dict[Unit, dict[str, float]] = {}
    for one in sensitivities:
        options.setdefault(one.unit, {"none": 0.0})[one.scheme] = max(one.kl, 0.0)
    low, high = 0.0, 1e18
    for _ in range(BISECTIONS):
        price = (low * high) ** 0.5 if low else high / 1e18
        if _loss(_at_price(options, price), options) <= budget:
            high = price
        else:
            low = price
    return Assignment(_at_price(options, high))


def _at_price(options: Mapping[Unit, Mapping[str, float]], price: float) -> dict[Unit, str]:
    return {
        unit: min(losses, key=lambda name: bits_of(unit, name) + price * losses[name])
        for unit, losses in options.items()
    }


def _loss(chosen: Mapping[Unit, str], options: Mapping[Unit, Mapping[str, float]]) -> float:
    return sum(options[unit][name] for unit, name in chosen.items())


@dataclass(frozen=True)
class Found:
    """An assignment that was built and measured."""

    assignment: Assignment
    quality: Quality


def search(
    sensitivities: Sequence[Sensitivity],
    limits: Limits,
    measure: Callable[[Assignment], Quality],
    observe: Callable[[Found], None] = lambda _: None,
) -> Found:
    """The assignment of the fewest bits that `measure` finds within `limits`; raises InputError when there is none.

    Losses do not quite add up, so the budget is bisected until what is measured just keeps to the limits.
    """
    low, budget, best = 0.0, limits.max_kl or MAX_KL, None
    high: float | None = None
    seen: set[tuple[str, ...]] = set()
    for _ in range(ROUNDS):
        assignment = assign(sensitivities, budget)
        names = tuple(assignment.schemes.values())
        if names in seen:
            break
        seen.add(names)
        found = Found(assignment, measure(assignment))
        observe(found)
        if limits.why_not(found.quality) is None:
            best = found if best is None or assignment.bits < best.assignment.bits else best
            low = budget
        else:
            high = budget
        budget = 2 * budget if high is None else (low + high) / 2
    if best is None:
        raise InputError(f"--quantize auto found nothing within the limits: {limits.why_not(found.quality)}")
    return best
