"""Canonical operators `torch.ops.autodeploy.*`: the vocabulary that patterns end in and kernels serve.

Each operator is a schema and a plain-PyTorch reference. The reference is the specification: kernels are tested
against it, and it runs on any device.
"""

from autodeploy.ops.activation import ACTIVATIONS, activate, gated_activation
from autodeploy.ops.attention import attention, paged_attention
from autodeploy.ops.convolution import convolution, convolution_activation
from autodeploy.ops.embedding import embedding
from autodeploy.ops.experts import expert_linear
from autodeploy.ops.linear import gated_linear, linear, linear_activation, residual_linear
from autodeploy.ops.norm import add_layer_norm, add_rms_norm, layer_norm, rms_norm
from autodeploy.ops.op import CanonicalOp, define
from autodeploy.ops.packed_experts import packed_expert_linear
from autodeploy.ops.packed_linear import packed_gated_linear, packed_linear
from autodeploy.ops.quantize import (
    add_rms_norm_quantize,
    gated_activation_quantize,
    quantize,
    rms_norm_quantize,
)
from autodeploy.ops.rope import rope
from autodeploy.ops.rope_attention import rope_paged_attention
from autodeploy.ops.rotary_tables import rotary_tables
from autodeploy.ops.scaled_linear import scaled_gated_linear, scaled_linear
from autodeploy.ops.soft_cap import soft_cap

OPS = (
    embedding,
    linear,
    linear_activation,
    gated_linear,
    residual_linear,
    packed_linear,
    packed_gated_linear,
    scaled_linear,
    scaled_gated_linear,
    quantize,
    rms_norm_quantize,
    add_rms_norm_quantize,
    gated_activation_quantize,
    expert_linear,
    packed_expert_linear,
    convolution,
    convolution_activation,
    rms_norm,
    layer_norm,
    add_rms_norm,
    add_layer_norm,
    rotary_tables,
    rope,
    activate,
    gated_activation,
    soft_cap,
    attention,
    paged_attention,
    rope_paged_attention,
)

for _op in OPS:
    define(_op)

__all__ = [
    "ACTIVATIONS",
    "OPS",
    "CanonicalOp",
    "activate",
    "add_layer_norm",
    "add_rms_norm",
    "add_rms_norm_quantize",
    "attention",
    "convolution",
    "convolution_activation",
    "define",
    "embedding",
    "expert_linear",
    "gated_activation",
    "gated_activation_quantize",
    "gated_linear",
    "layer_norm",
    "linear",
    "linear_activation",
    "packed_expert_linear",
    "packed_gated_linear",
    "packed_linear",
    "paged_attention",
    "quantize",
    "residual_linear",
    "rms_norm",
    "rms_norm_quantize",
    "rope",
    "rope_paged_attention",
    "rotary_tables",
    "scaled_gated_linear",
    "scaled_linear",
    "soft_cap",
]
