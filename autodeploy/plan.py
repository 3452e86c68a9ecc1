"""What a build is going to do, and why: shown before it starts, and by `--dry-run`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from autodeploy.layers import Choice, Origin
from autodeploy.resolution import ResolvedRecipe

if TYPE_CHECKING:  # a plan is shown without torch
    from autodeploy.hub.checkpoint import Checkpoint
    from autodeploy.planning import Outlook


@dataclass(frozen=True)
class Decision:
    """One thing that was decided."""

    what: str
    value: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """Every decision of a build, and what the user should know besides."""

    model: str
    decisions: tuple[Decision, ...]
    notes: tuple[str, ...] = ()
    choices: tuple[Choice, ...] = ()
    """Every value that a recipe or the user set."""
    outlook: Outlook | None = None
    """What the model is, what fits and how fast it will be; None where that is not known."""

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON data."""
        return {
            "model": self.model,
            "decisions": [asdict(one) for one in self.decisions],
            "notes": list(self.notes),
            "recipe": [{"key": one.key, "value": one.value, **asdict(one.origin)} for one in self.choices],
            "outlook": None if self.outlook is None else self.outlook.as_dict(),
        }


def checkpoint_decisions(found: Checkpoint, stored: str | None) -> tuple[Decision, ...]:
    """What is known of a model's files, in words, and how they are quantized; nothing of what is not known."""
    access = "not gated" if found.license_url is None else f"gated: its licence is accepted at {found.license_url}"
    template = ("yes", "messages of a chat are laid out by it")
    without = ("none", "the model continues text; it knows no messages")
    known = {
        "checkpoint": (found.size, access),
        "stored as": (stored, "weights are taken over as they are"),
        "chat template": template if found.has_chat_template else without,
    }
    return tuple(Decision(what, value, reason) for what, (value, reason) in known.items() if value is not None)


def recipe_decisions(recipe: ResolvedRecipe[Any, Any]) -> tuple[Decision, ...]:
    """How many passes there are, then each value that somebody chose for a pass or for the runtime."""
    layers = dict.fromkeys(choice.origin.layer for choice in recipe.choices if choice.key.startswith("passes."))
    told = f"from {', '.join(layers) or 'an empty recipe'}; `autodeploy explain` lists them"
    pipeline = Decision("passes", str(len(recipe.passes)), told)
    values = (
        Decision(choice.key, _text(choice.value), _why(choice.origin))
        for choice in recipe.choices
        if choice.key.startswith("runtime.") or choice.key.count(".") == 2 or choice.origin.layer.startswith("plugin ")
    )
    return (pipeline, *values)


def _text(value: object) -> str:
    """A value as `--set` takes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _why(origin: Origin) -> str:
    """The layer, with its reason unless that is the one everything has."""
    return origin.layer if origin.layer == "default" or not origin.reason else f"{origin.layer}: {origin.reason}"
