"""From masks as tensors to masks by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from operator import add
from typing import Any, ClassVar

import torch
from torch import SymInt, Tensor
from torch.fx import GraphModule, Node

from autodeploy.graph.evaluate import Evaluator, numbers_in, why_unknown
from autodeploy.graph.inputs import insert_weight
from autodeploy.graph.masks import Mask, name_mask
from autodeploy.graph.nodes import arguments, calls_of, insert_call, is_call, value
from autodeploy.graph.origin import inherit_origin
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite import Miss
from autodeploy.rewrite.apply import erase_unused
from autodeploy.weights.expression import Constant
from autodeploy.weights.plan import constants_in

aten = torch.ops.aten
attention_op = torch.ops.autodeploy.attention.default

_FEW = (1, 2, 7)
_ENOUGH = 64  # tokens, where no number in a mask says more
_SLOPES = "alibi_slopes"
_MAX_ELEMENTS = 1 << 26  # of a mask that is computed


class NameMasks(Pass):
    """Replace the `bias` of an attention by what it does: causal, a window, ALiBi.

    A mask that depends on positions alone is computed, at few tokens and at more than any number or table in it
    speaks of, so that a window shows. That is a proof for those lengths, however the mask is written.
    """

    name: ClassVar[str] = "name_masks"
    stage: ClassVar[Stage] = Stage.CANONICALIZE
    exact: ClassVar[bool] = False  # slopes are taken in float32, where the model may round what they give
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Name each mask once, and give the reason where it has no name."""
        constants = constants_in(gm, ctx.weights)
        names: dict[Any, Mask | str] = {}
        changed = 0
        for attention in calls_of(gm.graph, attention_op):
            bias, tokens = arguments(attention)["bias"], value(attention).shape[1]
            if bias is None:
                continue
            if (bias, str(tokens)) not in names:
                names[bias, str(tokens)] = _name(bias, tokens, constants)
            mask = names[bias, str(tokens)]
            reason = mask if isinstance(mask, str) else _why_not(attention, mask)
            if reason is not None:
                ctx.misses.append(Miss.at(self.name, attention, bias, reason))
            elif isinstance(mask, Mask) and ctx.spend():
                _replace(gm, ctx, attention, mask)
                changed += 1
        return changed


def _name(bias: Node, tokens: int | SymInt, constants: Mapping[str, Tensor]) -> Mask | str:
    """The mask that the terms of a sum make up, or why one of them has no name."""
    masks: list[Mask] = []
    for term in _terms(bias):
        mask = why_unknown(term, constants) or _name_term(term, tokens, constants)
        if isinstance(mask, str):
            return mask
        masks.append(mask)
    return reduce(add, masks)


def _terms(bias: Node) -> Iterator[Node]:
    """The parts of a sum: each is small where the whole would have a row for every head."""
    left, right = bias.args[:2] if is_call(bias, aten.add.Tensor) else (None, None)
    if isinstance(left, Node) and isinstance(right, Node) and arguments(bias)["alpha"] == 1:
        yield from _terms(left)
        yield from _terms(right)
    else:
        yield bias


def _name_term(term: Node, tokens: int | SymInt, constants: Mapping[str, Tensor]) -> Mask | str:
    for num_tokens in _lengths(term, tokens, constants):
        values = _values(term, tokens, num_tokens, constants)
        if values is not None:
            break
    else:
        return "it cannot be computed at a number of tokens that would tell"
    mask = name_mask(values)
    if isinstance(mask, Mask) and isinstance(tokens, SymInt):
        few = (_values(term, tokens, number, constants) for number in _FEW if number < num_tokens)
        if not all(one is not None and _agrees(mask, one) for one in few):
            return "it is another for few tokens than for many"
    return mask


def _lengths(term: Node, tokens: int | SymInt, constants: Mapping[str, Tensor]) -> list[int]:
    """The numbers of tokens to try: past every number that the mask is made of, or else as many as a table has."""
    if isinstance(tokens, int):
        return [tokens]
    numbers = numbers_in(term, constants)
    return [max(numbers | {_ENOUGH}) + 3, *sorted(numbers, reverse=True)]


def _values(term: Node, tokens: int | SymInt, num_tokens: int, constants: Mapping[str, Tensor]) -> Tensor | None:
    """The mask at a number of tokens; None where there is none, or where it is too large to compute."""
    evaluator = Evaluator(constants, tokens, num_tokens)
    shape = torch.Size(evaluator.size(size) for size in value(term).shape)
    if max(shape.numel(), num_tokens**2) > _MAX_ELEMENTS:
        return None
    try:
        values = torch.atleast_2d(evaluator.evaluate(term))  # type: ignore[no-untyped-call]
        wide: Tensor = values.expand(*values.shape[:-1], num_tokens)
        wide.expand(*shape[:-2], num_tokens, num_tokens)
    except (RuntimeError, IndexError, ValueError):  # past the end of a table
        return None
    return wide


def _agrees(mask: Mask, values: Tensor) -> bool:
    """Whether a mask at few tokens is the one that was named at many: there a window hides nothing."""
    few = name_mask(values)
    hidden = mask.hides(values.shape[-1])
    if isinstance(few, str) or not torch.equal(few.hides(values.shape[-1]), hidden):
        return False
    if mask.slopes is None or values.shape[-1] == 1:
        return True
    return few.slopes is not None and bool(torch.allclose(few.slopes, mask.slopes, rtol=1e-4))


def _why_not(attention: Node, mask: Mask) -> str | None:
    named = arguments(attention)
    q, k = value(named["q"]), value(named["k"])
    if str(q.shape[1]) != str(k.shape[1]):
        return "there are not as many queries as keys"
    if named["alibi_slopes"] is not None or named["window"] is not None:
        return "the attention has a mask besides"
    return "sinks do not ignore a constant" if mask.slopes is not None and named["sinks"] is not None else None


def _replace(gm: GraphModule, ctx: Context, attention: Node, mask: Mask) -> None:
    named = arguments(attention)
    named.update(bias=None, window=mask.window, causal=named["causal"] or mask.causal)
    with gm.graph.inserting_before(attention):
        if mask.slopes is not None and mask.slopes.any():
            named["alibi_slopes"] = _slopes(gm, ctx, mask.slopes, named["q"])
        replacement = insert_call(gm.graph, attention_op, named.values())
    inherit_origin(replacement, attention)
    attention.replace_all_uses_with(replacement)
    erase_unused(attention)


def _slopes(gm: GraphModule, ctx: Context, slopes: Tensor, q: Node) -> Node:
    """The slopes of q's heads as a weight, one for all layers that have the same."""
    like = value(q)
    slopes = slopes.expand(like.shape[2]).contiguous()
    for name, known in ctx.weights.items():
        if isinstance(known, Constant) and name.startswith(_SLOPES) and torch.equal(known.tensor, slopes):
            break
    else:
        name = f"{_SLOPES}_{len(ctx.weights)}"
        ctx.weights.add_constant(name, slopes)
    return insert_weight(gm, name, like.new_empty(slopes.shape, dtype=slopes.dtype))
