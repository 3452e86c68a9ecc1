"""Holding that tokens meet in attention only, so that a step may compute any of them in any company.

A traced model computes a whole row of tokens. The runtime splits rows into steps and joins those of several requests;
that is the same only if every operator but attention treats each token by itself. Convolutions over tokens, recurrent
states, experts that sort tokens and positions that are counted instead of given are refused here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import SymInt, Tensor
from torch.fx import GraphModule, Node

import autodeploy.ops  # noqa: F401  (registers torch.ops.autodeploy)
from autodeploy.errors import UnsupportedError
from autodeploy.graph.nodes import arguments, calls_of, is_call, module_of
from autodeploy.graph.selection import selects_logits

if TYPE_CHECKING:  # passes are loaded to serve, which takes no transformers
    from transformers import PretrainedConfig

aten = torch.ops.aten

_NEW_DIM = (aten.unsqueeze.default, aten.stack.default, aten.squeeze.dim, aten.sym_size.int, aten.size.int)
_CONTRACTIONS = (
    aten.mm.default,
    aten.bmm.default,
    aten.matmul.default,
    aten.linear.default,
    torch.ops.autodeploy.linear.default,
    torch.ops.autodeploy.linear_activation.default,
    aten._grouped_mm.default,
)
_QUANTIZERS = (
    torch.ops.autodeploy.quantize.default,
    torch.ops.autodeploy.rms_norm_quantize.default,
    torch.ops.autodeploy.add_rms_norm_quantize.default,
    torch.ops.autodeploy.gated_activation_quantize.default,
)
_RESHAPES = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_MIXERS = ("conv", "group_norm", "instance_norm", "scaled_dot_product_attention", "fft", "arange", "pool")


def check_rows(gm: GraphModule) -> None:
    """Raise UnsupportedError naming the module and the operator that mixes tokens, or that counts them by itself."""
    for node in gm.graph.nodes:
        if node.op != "call_function" or node.target is torch.ops.autodeploy.attention.default or selects_logits(node):
            continue
        reason = _mixes_tokens(node) or _offsets_positions(node)
        if reason is not None:
            raise UnsupportedError(
                f"{module_of(node)}: {node.target} {reason}; only attention may depend on what else is in the row"
            )


def check_attention_count(gm: GraphModule, config: PretrainedConfig) -> None:
    """Raise UnsupportedError unless every layer of `config` has its attention as the canonical operator.

    One in another form could see later tokens. A config that counts no layers is of a module that has none to count.
    """
    found = len(calls_of(gm.graph, torch.ops.autodeploy.attention.default))
    expected = getattr(config.get_text_config(), "num_hidden_layers", found)
    if found != expected:
        raise UnsupportedError(
            f"model type {config.model_type!r} has {expected} layers and {found} attentions of a known form; a layer"
            " that computes attention in another way is not supported"
        )


def _offsets_positions(node: Node) -> str | None:
    """Refuse a table of positions with a row for padding: the model counts from past that row, not from zero."""
    if not is_call(node, aten.embedding.default) or arguments(node)["padding_idx"] < 0:
        return None
    index = node.args[1]
    while isinstance(index, Node) and index.op == "call_function":
        index = index.args[0]
    is_position = isinstance(index, Node) and index.target == "position_ids"
    return "counts positions from past those of padding" if is_position else None


def _mixes_tokens(node: Node) -> str | None:
    """How a call lets tokens see each other, or None when it computes each by itself."""
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        return "is control flow"
    inputs, outputs = list(_tensors(node.all_input_nodes)), list(_tensors([node]))
    if is_call(node, *_QUANTIZERS) and arguments(node)["scale"] is not None:
        outputs.pop()  # the scale that it was given
    sizes = [size for tensor in outputs for size in tensor.shape]
    if not isinstance(node.target, torch._ops.OpOverload) or not (_token_dims(*inputs) or _token_dims(*outputs)):
        return None
    if any(name in str(node.target) for name in _MIXERS):
        return "counts or mixes tokens"
    if any(len(_token_dims(tensor)) > 1 for tensor in outputs):
        return "relates all tokens to all others"
    if outputs and _token_dims(*inputs) and not all(map(_token_dims, outputs)):
        return "reduces over tokens"
    if not all(map(_is_multiple, sizes)):
        return "changes the number of tokens"
    return _mixes_by_arguments(node)


def _mixes_by_arguments(node: Node) -> str | None:
    named = arguments(node)
    first = next(_tensors(node.all_input_nodes), None)
    if is_call(node, aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
        indexed = {dim for dim, index in enumerate(named["indices"]) if index is not None}
        return "selects tokens" if indexed & set(_dims_of(named["self"])) else None
    if is_call(node, *_CONTRACTIONS) and isinstance(node.args[0], Node):
        return "sums over tokens" if node.args[0].meta["val"].dim() - 1 in _dims_of(node.args[0]) else None
    if is_call(node, *_RESHAPES) and first is not None:
        return None if _outer(first) == _outer(node.meta["val"]) else "moves numbers from token to token"
    if is_call(node, aten.slice.Tensor) and first is not None and str(first.shape) == str(node.meta["val"].shape):
        return None
    if is_call(node, aten.pad.default, aten.constant_pad_nd.default) and first is not None:
        padded = [-1 - place // 2 for place, amount in enumerate(named["pad"]) if amount != 0]
        return "shifts tokens" if _along_tokens(padded, first) else None
    dims = [] if is_call(node, *_NEW_DIM, aten.permute.default) else [named.get("dim"), named.get("dims")]
    return "works along the tokens" if first is not None and _along_tokens(dims, first) else None


def _along_tokens(dims: Sequence[Any], tensor: Tensor) -> bool:
    """Whether one of the `dim` arguments of an operator is the tensor's dimension of tokens."""
    given = [dim for argument in dims for dim in (argument if isinstance(argument, (list, tuple)) else [argument])]
    return any(isinstance(dim, int) and dim % max(tensor.dim(), 1) in _token_dims(tensor) for dim in given)


def _tensors(nodes: Sequence[Node]) -> Iterator[Tensor]:
    for node in nodes:
        value = node.meta.get("val")
        yield from (one for one in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(one, Tensor))


def _token_dims(*tensors: Tensor) -> list[int]:
    """The dimensions whose size depends on the number of tokens."""
    return [dim for tensor in tensors for dim, size in enumerate(tensor.shape) if isinstance(size, SymInt)]


def _dims_of(node: object) -> list[int]:
    return _token_dims(*_tensors([node])) if isinstance(node, Node) else []


def _is_multiple(size: int | SymInt) -> bool:
    """Whether a size is a fixed number of entries for each token."""
    if isinstance(size, int):
        return True
    expression = size.node.expr
    symbols = list(expression.free_symbols)
    return len(symbols) == 1 and bool((expression / symbols[0]).is_Integer)


def _outer(tensor: Tensor) -> int:
    """How many times the whole row of tokens is repeated in memory order."""
    return prod(int(size) for size in tensor.shape[: next(iter(_token_dims(tensor)), 0)])
