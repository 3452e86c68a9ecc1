"""The operator, in the plugin's own namespace."""

from torch import Tensor

from autodeploy.ops import ACTIVATIONS, CanonicalOp


def _packed_gate(x: Tensor, kind: str) -> Tensor:
    gate, up = x.chunk(2, -1)
    return ACTIVATIONS[kind](gate) * up


packed_gate = CanonicalOp(
    "packed_gates::packed_gate(Tensor x, str kind) -> Tensor",
    _packed_gate,
    lambda x, kind: x.new_empty((*x.shape[:-1], x.shape[-1] // 2)),
)
"""`kind(gate) * up`, where x `[..., 2 I]` holds the gates and then what they multiply."""
