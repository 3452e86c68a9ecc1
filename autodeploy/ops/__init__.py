"""Canonical operators `torch.ops.autodeploy.*`: the vocabulary that patterns end in and kernels serve.

Each operator is a schema and a plain-PyTorch reference. The reference is the specification: kernels are tested
against it, and it runs on any device.
"""

from autodeploy.ops.activation import ACTIVATIONS, activate, gated_activation
from autodeploy.ops.attention import attention, paged_attention
from autodeploy.ops.experts import expert_linear
from autodeploy.ops.linear import linear
from autodeploy.ops.norm import layer_norm, rms_norm
from autodeploy.ops.op import CanonicalOp, define
from autodeploy.ops.rope import rope

OPS = (linear, expert_linear, rms_norm, layer_norm, rope, activate, gated_activation, attention, paged_attention)

for _op in OPS:
    define(_op)

__all__ = [
    "ACTIVATIONS",
    "OPS",
    "CanonicalOp",
    "activate",
    "attention",
    "define",
    "expert_linear",
    "gated_activation",
    "layer_norm",
    "linear",
    "paged_attention",
    "rms_norm",
    "rope",
]
