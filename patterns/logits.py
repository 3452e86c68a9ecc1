"""What models do to logits."""

from __future__ import annotations

import torch

from autodeploy.rewrite import Call, Expr, Match, Rule, rewrite

aten = torch.ops.aten


def is_bound(match: Match) -> str | None:
    """Decline a cap that is no positive number."""
    positive = isinstance(match.cap, (int, float)) and match.cap > 0
    return None if positive else f"the cap is {match.cap}, not a positive number"


@rewrite(torch.ops.autodeploy.soft_cap.default, where=is_bound)
def soft_cap(x: Expr, cap: Expr) -> Expr:
    """`cap * tanh(x / cap)` (Gemma 2, Gemma 3n, nanochat)."""
    return Call(aten.tanh.default, (x / cap,)) * cap


LOGITS: tuple[Rule, ...] = (soft_cap,)
