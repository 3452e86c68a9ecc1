"""An outlook on the terminal: the model, its memory, its speed, and what was rejected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from autodeploy.cli.output import table

if TYPE_CHECKING:
    from autodeploy.cost import Fit
    from autodeploy.planning import Outlook
    from autodeploy.planning.card import ModelCard

GB = 1e9


def outlook_parts(outlook: Outlook) -> Iterator[RenderableType]:
    """The tables of an outlook, those without content left out."""
    yield table("Model", ("what", "figure"), list(_card_rows(outlook.card)))
    yield table("Memory", ("what", "figure"), list(_memory_rows(outlook.fit)))
    if outlook.batches:
        rows = [(f"{context:,}", str(batch)) for context, batch in outlook.batches]
        yield table("What fits on one", ("tokens a request", "requests at once"), rows)
    if outlook.speeds:
        yield table("Speed", ("what", "ms", "tokens/s", "of the ceiling", "bound by"), _speed_rows(outlook))
    yield table(
        "Not chosen",
        ("what", "possible", "why"),
        [(one.what, "yes" if one.possible else "no", one.reason) for one in outlook.rejected],
    )
    if outlook.speeds:
        yield Text(f"• {outlook.basis}")


def _card_rows(card: ModelCard) -> Iterator[tuple[str, str]]:
    yield "architecture", card.architecture
    active = card.active_parameters
    some = f", of which a token meets {_count(active)}" if active and active < card.num_parameters else ""
    yield "parameters", f"{_count(card.num_parameters)}{some}"
    kinds = f" of {card.layer_kinds} kinds" if card.layer_kinds > 1 else ""
    yield "layers", f"{card.num_layers}{kinds}"
    if card.attention is not None:
        yield "attention", card.attention
    if card.max_model_len is not None and card.vocab_size is not None:
        yield "context, vocabulary", f"{card.max_model_len:,} tokens, {card.vocab_size:,}"
    if card.cache_bytes_per_token is not None:
        yield "cache", f"{card.cache_bytes_per_token / 1e3:,.1f} kB a token"


def _memory_rows(fit: Fit) -> Iterator[tuple[str, str]]:
    yield "device", f"{fit.capacity / GB:.1f} GB"
    yield "weights", f"{fit.weights / GB:.2f} GB"
    if fit.num_devices > 1:
        yield "such devices", f"{fit.num_devices} for the weights alone"
    if not fit.fits:
        return
    yield "largest steps", f"{fit.workspace / GB:.2f} GB"
    if fit.reserve:
        yield "kept free", f"{fit.reserve / GB:.2f} GB for the driver, graphs and fragments"
    yield "cache", f"{fit.cache / GB:.1f} GB, which is {fit.cache_tokens:,} tokens"


def _speed_rows(outlook: Outlook) -> list[tuple[str, ...]]:
    return [
        (
            one.what,
            f"{one.milliseconds:.2f}" if one.milliseconds < 100 else f"{one.milliseconds:,.0f}",
            "" if one.tokens_s is None else f"{one.tokens_s:,.0f}",
            "" if one.floor_fraction is None else f"{one.floor_fraction:.0%}",
            one.bound,
        )
        for one in outlook.speeds
    ]


def _count(number: int) -> str:
    """Such as 8.03 B."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
