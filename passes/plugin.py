"""The built-in plugin: what this package itself adds, through the door that every plugin uses."""

from __future__ import annotations

from autodeploy.kernels import BACKENDS
from autodeploy.ops import OPS
from autodeploy.passes.canonicalize_linears import CanonicalizeLinears
from autodeploy.passes.canonicalize_mlps import CanonicalizeMlps
from autodeploy.passes.canonicalize_norms import CanonicalizeNorms
from autodeploy.passes.canonicalize_rotary import CanonicalizeRotary
from autodeploy.passes.choose_kernels import ChooseKernels
from autodeploy.passes.clean_graph import CleanGraph
from autodeploy.passes.fold_constants import FoldConstants
from autodeploy.passes.functionalize import Functionalize
from autodeploy.passes.fuse_gate_up import FuseGateUp
from autodeploy.passes.fuse_qkv import FuseQkv
from autodeploy.passes.gather_logit_rows import GatherLogitRows
from autodeploy.passes.merge_common import MergeCommon
from autodeploy.passes.page_attention import PageAttention
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
        CanonicalizeLinears,
        CanonicalizeNorms,
        CanonicalizeRotary,
        CanonicalizeMlps,
        FuseQkv,
        FuseGateUp,
        GatherLogitRows,
        PageAttention,
        ChooseKernels,
    ),
    patterns=PATTERNS,
    kernels=BACKENDS,
    recipes=builtin_recipes(),
)
