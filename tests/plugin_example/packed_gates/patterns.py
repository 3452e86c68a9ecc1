"""Two halves of one tensor that meet again in a gate."""

import torch

from autodeploy import ops
from autodeploy.rewrite import Call, Expr, Match, getitem, rewrite
from packed_gates.ops import packed_gate

aten = torch.ops.aten


def two_halves(match: Match) -> str | None:
    """Decline what is split into more parts, or into unequal ones."""
    widths = match.widths
    return None if len(widths) == 2 and widths[0] == widths[1] else f"the parts are {list(widths)} wide"


@rewrite(packed_gate.overload, where=two_halves)
def gate_of_halves(x: Expr, widths: Expr, kind: Expr) -> Expr:
    """A gated activation of the first half of x, which multiplies the second."""
    parts = Call(aten.split_with_sizes.default, (x, widths, -1))
    return Call(ops.gated_activation.overload, (getitem(parts, 0), getitem(parts, 1), kind))


PATTERNS = (gate_of_halves,)
