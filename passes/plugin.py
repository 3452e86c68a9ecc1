"""The built-in plugin: what this package itself adds, through the door that every plugin uses."""

from __future__ import annotations

from autodeploy.kernels import BACKENDS
from autodeploy.ops import OPS
from autodeploy.passes.canonicalize_attention import CanonicalizeAttention
from autodeploy.passes.canonicalize_convolutions import CanonicalizeConvolutions
from autodeploy.passes.canonicalize_embeddings import CanonicalizeEmbeddings
from autodeploy.passes.canonicalize_experts import CanonicalizeExperts
from autodeploy.passes.canonicalize_heads import CanonicalizeHeads
from autodeploy.passes.canonicalize_linears import CanonicalizeLinears
from autodeploy.passes.canonicalize_logits import CanonicalizeLogits
from autodeploy.passes.canonicalize_matmuls import CanonicalizeMatmuls
from autodeploy.passes.canonicalize_mlps import CanonicalizeMlps
from autodeploy.passes.canonicalize_norms import CanonicalizeNorms
from autodeploy.passes.canonicalize_rotary import CanonicalizeRotary
from autodeploy.passes.canonicalize_rotary_tables import CanonicalizeRotaryTables
from autodeploy.passes.choose_kernels import ChooseKernels
from autodeploy.passes.clean_graph import CleanGraph
from autodeploy.passes.fold_batch_norm import FoldBatchNorm
from autodeploy.passes.fold_constants import FoldConstants
from autodeploy.passes.functionalize import Functionalize
from autodeploy.passes.fuse_activation_quantizers import FuseActivationQuantizers
from autodeploy.passes.fuse_convolution_activation import FuseConvolutionActivation
from autodeploy.passes.fuse_gate_up import FuseGateUp
from autodeploy.passes.fuse_gated_linear import FuseGatedLinear
from autodeploy.passes.fuse_linear_activation import FuseLinearActivation
from autodeploy.passes.fuse_qkv import FuseQkv
from autodeploy.passes.fuse_residual_linear import FuseResidualLinear
from autodeploy.passes.fuse_residual_norm import FuseResidualNorm
from autodeploy.passes.fuse_rope_cache import FuseRopeCache
from autodeploy.passes.gather_logit_rows import GatherLogitRows
from autodeploy.passes.hoist_logit_rows import HoistLogitRows
from autodeploy.passes.mark_precision import MarkPrecision
from autodeploy.passes.merge_common import MergeCommon
from autodeploy.passes.name_masks import NameMasks
from autodeploy.passes.pack_experts import PackExperts
from autodeploy.passes.page_attention import PageAttention
from autodeploy.passes.quantize_cache import QuantizeCache
from autodeploy.passes.quantize_linears import QuantizeLinears
from autodeploy.passes.tune_kernels import TuneKernels
from autodeploy.patterns import PATTERNS
from autodeploy.plugin import BUILTIN, Plugin
from autodeploy.recipe import builtin_recipes

PLUGIN = Plugin(
    name=BUILTIN,
    ops=OPS,
    passes=(
        Functionalize,
        CleanGraph,
        FoldConstants,
        MergeCommon,
        CanonicalizeEmbeddings,
        CanonicalizeLinears,
        CanonicalizeConvolutions,
        CanonicalizeNorms,
        CanonicalizeRotary,
        CanonicalizeMatmuls,
        CanonicalizeAttention,
        CanonicalizeHeads,
        NameMasks,
        CanonicalizeMlps,
        CanonicalizeExperts,
        CanonicalizeLogits,
        CanonicalizeRotaryTables,
        MarkPrecision,
        FoldBatchNorm,
        FuseQkv,
        FuseGateUp,
        FuseResidualNorm,
        FuseLinearActivation,
        FuseConvolutionActivation,
        QuantizeLinears,
        PackExperts,
        FuseActivationQuantizers,
        GatherLogitRows,
        PageAttention,
        QuantizeCache,
        FuseRopeCache,
        FuseGatedLinear,
        FuseResidualLinear,
        HoistLogitRows,
        TuneKernels,
        ChooseKernels,
    ),
    patterns=PATTERNS,
    kernels=BACKENDS,
    recipes=builtin_recipes(),
)
