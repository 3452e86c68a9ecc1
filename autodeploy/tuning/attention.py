"""What is tuned of attention: the distinct attention layers of a graph, in steps of decode rows and of prompts."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, Node

from autodeploy import ops
from autodeploy.graph.nodes import arguments, calls_of, form
from autodeploy.kernels.attention import Attention

ATTENTIONS = (ops.paged_attention.overload, ops.rope_paged_attention.overload)
"""The operators that are tuned."""


def attention_of(call: Node, *, prompt: bool) -> Attention:
    """What a call of one of `ATTENTIONS` computes, in steps of one kind."""
    named = arguments(call)
    (dtype, q), (_, v), (cache, pages) = (form(named[name]) for name in ("q", "v", "key_pages"))
    rotary = form(named["cos"])[1][-1] if "cos" in named else 0
    sizes = (q[1], pages[1], q[2], v[2], rotary)
    heads, kv_heads, key_width, value_width, rotary = (_known(size) for size in sizes)
    return Attention(
        heads,
        kv_heads,
        key_width,
        value_width,
        _name(dtype),
        _name(cache),
        prompt,
        rotary,
        named.get("interleaved", False),
        named["window"] or 0,
        named["softcap"] or 0.0,
        *_has(named, "sinks", "alibi_slopes", "key_scale"),
    )


def op_of(attention: Attention) -> torch._ops.OpOverload:
    """The operator that computes it."""
    return ATTENTIONS[attention.rotary > 0]


def attentions_of(graph: Graph) -> tuple[Attention, ...]:
    """The distinct attention layers of a graph, in both kinds of steps."""
    calls = calls_of(graph, *ATTENTIONS)
    return tuple(sorted({attention_of(call, prompt=prompt) for call in calls for prompt in (False, True)}))


def _has(named: dict[str, Any], *names: str) -> tuple[bool, ...]:
    return tuple(named[name] is not None for name in names)


def _known(size: int | None) -> int:
    assert size is not None, "the sizes of heads are the same in every step"
    return size


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
