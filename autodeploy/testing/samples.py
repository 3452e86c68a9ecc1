"""Random input for the holes of a pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from autodeploy.errors import InputError
from autodeploy.graph.text import operator_name
from autodeploy.rewrite import AnyOf, Call, Cast, Maybe, Outputs, Rule, Var, evaluate

Sampler = Callable[[torch.dtype], Mapping[str, Any]]
"""Draws a value for each name in a pattern, tensors in the given dtype, from PyTorch's global generator."""

NUM_TOKENS, WIDTH = 6, 16

# What an operator's argument is called says its shape; any other tensor is a row of tokens.
_SHAPES: Mapping[str, tuple[int, ...]] = {
    "weight": (WIDTH,),
    "bias": (WIDTH,),
    "linear.weight": (WIDTH + 1, WIDTH),
    "linear.bias": (WIDTH + 1,),
}
_NUMBERS: Mapping[str, Any] = {"eps": 1e-5, "kind": "silu", "normalized_shape": WIDTH, "cudnn_enable": False}
_BY_TYPE: Mapping[str, Any] = {"float": 0.5, "number": 0.5, "bool": False}
_GUESSED = ("Tensor", "dtype", *_BY_TYPE)


class _Use(NamedTuple):
    """Where a name stands: which argument of which operator, and of what type."""

    operator: str
    argument: str
    kind: str


def sample_tokens(dtype: torch.dtype, width: int = WIDTH) -> Tensor:
    """`[3, NUM_TOKENS, width]`: common values, values so small that an epsilon decides, and large ones."""
    scales = torch.tensor([1.0, 1e-3, 30.0]).reshape(3, 1, 1)
    return (torch.randn(3, NUM_TOKENS, width) * scales).to(dtype)


def sample_inputs(rule: Rule) -> Sampler:
    """A sampler guessed from where a rule's names stand: pointwise patterns, norms and projections need no other.

    Raises InputError for a name that nothing can be guessed for, such as a dimension or the bounds of a slice, and
    when the pattern cannot be evaluated on the guesses.
    """
    uses: dict[str, _Use] = {}
    for name, use in _uses([rule.replacement, rule.pattern]):  # the operators of a replacement say most of a name
        uses.setdefault(name, use)
    for name, use in uses.items():
        if use.kind not in _GUESSED and use.argument not in _NUMBERS:
            raise InputError(f"{rule.name}: no guess for {name!r} ({use.argument}: {use.kind}); give inputs=")
    outermost = next((name for name, use in _uses(rule.pattern) if use.kind == "dtype"), None)  # of the result

    def sample(dtype: torch.dtype) -> dict[str, Any]:
        return {name: _draw(use, dtype if name == outermost else torch.float32, dtype) for name, use in uses.items()}

    try:
        with torch.random.fork_rng(devices=[]):
            evaluate(rule.pattern, sample(torch.float32))
    except RuntimeError as error:
        raise InputError(f"{rule.name}: the guessed input does not fit it ({error}); give inputs=") from error
    return sample


def _draw(use: _Use, cast_to: torch.dtype, dtype: torch.dtype) -> Any:
    if use.kind == "dtype":
        return cast_to
    if use.kind != "Tensor":
        return _NUMBERS.get(use.argument, _BY_TYPE.get(use.kind))
    shape = _SHAPES.get(f"{use.operator}.{use.argument}", _SHAPES.get(use.argument))
    return sample_tokens(dtype) if shape is None else torch.randn(shape).to(dtype)


_ALONE = _Use("", "", "Tensor")


def _uses(expression: object, use: _Use = _ALONE) -> Iterator[tuple[str, _Use]]:
    """Each name in an expression, with the argument that it stands for."""
    match expression:
        case Var(name):
            yield name, use
        case Call(target, args):
            for argument, (name, kind) in zip(args, parameters_of(target, len(args)), strict=True):
                yield from _uses(argument, _Use(operator_name(target), name, kind))
        case Cast(x, dtype):
            yield dtype.name, _Use("", "dtype", "dtype")
            yield from _uses(x)
        case Maybe(present, absent):
            yield from _uses([present, absent], use)
        case AnyOf(items) | Outputs(items) | list(items) | tuple(items):
            for item in items:
                yield from _uses(item, use)


def parameters_of(target: Any, count: int) -> list[tuple[str, str]]:
    """Name and type of the first `count` arguments of an operator, lists by their items; Tensor for other functions."""
    if not isinstance(target, torch._ops.OpOverload):
        return [(f"argument {index}", "Tensor") for index in range(count)]
    given = target._schema.arguments[:count]
    return [(one.name, str(one.type).removeprefix("Optional[").removeprefix("List[").rstrip("]")) for one in given]
