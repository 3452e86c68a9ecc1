"""The backend `native`: C++ kernels for the CPU, in float32 and bfloat16, compiled on the machine that runs them.

Their results for a row of a batch never depend, to the last bit, on the other rows, on the number of threads or on how
a prompt was cut into chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from autodeploy import ops
from autodeploy.kernels.native import declines
from autodeploy.kernels.native.build import BuildError, build
from autodeploy.kernels.table import Kernel
from autodeploy.ops import CanonicalOp

BACKEND = "native"
DTYPES = (torch.float32, torch.bfloat16)
LIBRARY = torch.library.Library("autodeploy_native", "FRAGMENT")  # type: ignore[no-untyped-call]

for _op in (
    ops.linear,
    ops.linear_activation,
    ops.gated_linear,
    ops.rms_norm,
    ops.layer_norm,
    ops.add_rms_norm,
    ops.add_layer_norm,
    ops.soft_cap,
    ops.activate,
    ops.gated_activation,
    ops.rotary_tables,
    ops.rope,
    ops.paged_attention,
    ops.rope_paged_attention,
    ops.packed_linear,
    ops.packed_gated_linear,
    ops.scaled_linear,
    ops.scaled_gated_linear,
):
    LIBRARY.define(_op.schema)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"autodeploy_native::{_op.name}", _op.fake, lib=LIBRARY)


@cache
def why_unavailable() -> str | None:
    """The reason why this machine cannot have the kernels, or None. The first call compiles and loads them."""
    try:
        path = build()
        torch.ops.load_library(path)  # type: ignore[no-untyped-call]
    except (BuildError, OSError) as error:
        return str(error)
    return None


def kernels() -> tuple[Kernel, ...]:
    """The kernels of this backend; none where it is unavailable."""
    if why_unavailable() is not None:
        return ()
    return (
        _kernel(ops.linear, declines.one_dtype),
        _kernel(ops.linear_activation, declines.known_projection),
        _kernel(ops.gated_linear, declines.known_projection),
        _kernel(ops.rms_norm, declines.one_dtype),
        _kernel(ops.layer_norm, declines.one_dtype),
        _kernel(ops.add_rms_norm, declines.like_residual),
        _kernel(ops.add_layer_norm, declines.like_residual),
        _kernel(ops.soft_cap, declines.one_dtype),
        _kernel(ops.activate, declines.known_kind),
        _kernel(ops.gated_activation, declines.like_halves),
        _kernel(ops.rotary_tables, declines.plain_positions),
        _kernel(ops.rope, declines.wide_angles),
        _kernel(ops.paged_attention, declines.one_cache_dtype),
        _kernel(ops.rope_paged_attention, declines.rotates_into_cache),
        _kernel(ops.packed_linear, declines.decodable),
        _kernel(ops.packed_gated_linear, declines.decodable),
        _kernel(ops.scaled_linear, declines.blocked),
        _kernel(ops.scaled_gated_linear, declines.blocked),
    )


def _kernel(op: CanonicalOp, reason: Callable[..., str | None]) -> Kernel:
    run = getattr(torch.ops.autodeploy_native, op.name).default
    return Kernel(op, BACKEND, run, ("cpu",), DTYPES, reason, priority=10)
