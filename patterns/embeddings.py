"""Lookups of tokens and of positions."""

from __future__ import annotations

import torch
from torch.fx import Node

from autodeploy.rewrite import Call, Expr, Match, Rule, Var, rewrite

aten = torch.ops.aten


def knows_no_padding(match: Match) -> str | None:
    """Decline a table with a row for padding, unless tokens as they are look it up: positions are counted past it."""
    are_tokens = isinstance(match.ids, Node) and match.ids.op == "placeholder" and match.ids.target == "input_ids"
    return None if are_tokens or match.padding_idx == -1 else f"row {match.padding_idx} is for padding"


@rewrite(torch.ops.autodeploy.embedding.default, where=knows_no_padding)
def embedding(weight: Expr, ids: Expr) -> Expr:
    """A row of a table for each id; what training does with the row of padding changes no result."""
    return Call(aten.embedding.default, (weight, ids, Var("padding_idx"), Var("scale_grad"), Var("sparse")))


EMBEDDINGS: tuple[Rule, ...] = (embedding,)
