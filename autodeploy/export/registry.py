"""Our entries in transformers' attention and mask registries: one canonical op a layer, and no mask tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import autodeploy.ops  # noqa: F401  (registers torch.ops.autodeploy)
from autodeploy.errors import UnsupportedError

IMPLEMENTATION = "autodeploy"
"""The `attn_implementation` that makes a transformers model call us."""

_WINDOW_PARTS = {"and_masks", "sliding_window_overlay", "causal_mask_function", "sliding_window_causal_mask_function"}
# Rows of different requests are told apart by the runtime's page tables, so the packing overlay adds nothing.
_CAUSAL_PARTS = {
    "and_masks",
    "causal_mask_function",
    "packed_sequence_mask_function",
    "remap_positions_for_packed_sequence",
}


@dataclass(frozen=True)
class Mask:
    """What a layer's mask lets a query see: itself and all before it, or the last `window` of them."""

    window: int | None = None


def _parts(function: Callable[..., Any]) -> Iterator[str]:
    """The names of the mask functions that `function` closes over, itself included."""
    yield function.__qualname__.partition(".")[0]
    for cell in function.__closure__ or ():
        value = cell.cell_contents
        for item in value if isinstance(value, tuple) else (value,):
            if callable(item) and hasattr(item, "__qualname__"):
                yield from _parts(item)


def _mask(*_: object, mask_function: Callable[..., Any], local_size: int | None = None, **__: object) -> Mask:
    """Name the kind of mask instead of building it; a kind that the canonical op cannot express is refused."""
    parts = set(_parts(mask_function))
    if parts <= _CAUSAL_PARTS:
        return Mask()
    if local_size is not None and parts <= _WINDOW_PARTS | _CAUSAL_PARTS:
        return Mask(window=local_size)
    strange = ", ".join(sorted(parts - _CAUSAL_PARTS - _WINDOW_PARTS)) or "a window of unknown size"
    raise UnsupportedError(f"the model masks attention with {strange}; causal and sliding-window masks are supported")


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    **extra: object,
) -> tuple[Tensor, None]:
    """Attention of `query [B, H, T, D]` over `key, value [B, Hk, T, D]` -> `[B, T, H, D]`, as transformers calls it."""
    name = type(module).__name__
    if is_causal is False or getattr(module, "is_causal", True) is False:
        raise UnsupportedError(f"{name} attends to later tokens (is_causal=False); only causal models can be served")
    if not isinstance(attention_mask, Mask):
        raise UnsupportedError(f"{name} was given no mask of transformers' mask registry: what it may see is unknown")
    for key_name in ("position_bias", "head_mask", "alibi"):
        if extra.get(key_name) is not None:
            raise UnsupportedError(f"{name} passes {key_name!r} to attention, which the canonical op does not take")
    window = attention_mask.window
    if sliding_window is not None and sliding_window != window:
        raise UnsupportedError(f"{name} asks for a window of {sliding_window}, and its mask has {window}")
    out = torch.ops.autodeploy.attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        window,
        softcap,
        s_aux,
    )
    return out, None


def _experts(module: Any, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """A mixture of experts on `hidden [T, H]`, routed by `top_k_index, top_k_weights [T, k]`, as transformers calls it.

    What lies between the two projections (gates of many kinds) stays the module's own code.
    """
    if getattr(module, "has_post_expert_norm", False):
        raise UnsupportedError(f"{type(module).__name__} normalizes the output of each expert, which is not supported")
    gated, biased = getattr(module, "has_gate", True), getattr(module, "has_bias", False)
    transposed = getattr(module, "is_transposed", False)
    name = "gate_up_proj" if gated else "up_proj"
    up = torch.ops.autodeploy.expert_linear(
        hidden.unsqueeze(1),
        top_k_index,
        getattr(module, name),
        getattr(module, f"{name}_bias") if biased else None,
        transposed,
    )
    inner = module._apply_gate(up) if gated else module.act_fn(up)
    down_bias = module.down_proj_bias if biased else None
    down = torch.ops.autodeploy.expert_linear(inner, top_k_index, module.down_proj, down_bias, transposed)
    mixed: Tensor = (down * top_k_weights.unsqueeze(-1)).sum(dim=1).to(hidden.dtype)
    return mixed


def register() -> None:
    """Make the implementations called "autodeploy" known to transformers; calling it again changes nothing."""
    ALL_EXPERTS_FUNCTIONS.register(IMPLEMENTATION, _experts)
    ALL_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(IMPLEMENTATION, _mask)
