"""Checking that a pattern computes what replaces it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from autodeploy.rewrite import AnyOf, Call, Cast, Maybe, Outputs, Rule, evaluate
from autodeploy.testing.samples import Sampler, sample_inputs

TOLERANCES: Mapping[torch.dtype, float] = MappingProxyType(
    {torch.float64: 1e-6, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
)
"""The relative error of a row that each dtype allows; operators that compute in float32 do so in float64 too."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_MAX_DIFFERING = 0.01  # elements on the edge between two roundings, which the order of a sum may push over


def check_pattern(
    rule: Rule,
    inputs: Sampler | None = None,
    dtypes: Sequence[torch.dtype] = DTYPES,
    *,
    tolerances: Mapping[torch.dtype, float] = TOLERANCES,
    same_rounding: bool = False,
    num_draws: int = 3,
) -> None:
    """Hold that the replacement of `rule` computes its pattern, in every form that the pattern allows.

    Both are evaluated on fresh random input in each dtype. The replacement must have the pattern's shape and dtype,
    and each row of it must lie within the dtype's tolerance of the pattern evaluated in float64 on the same input:
    `‖row - reference‖ / ‖reference‖`. With `same_rounding` it must also round where the pattern in its first form does,
    so that in 16 bits 99 % of its elements equal the pattern's bit for bit. `inputs` gives a value for each name in
    the pattern; without it they are guessed by `sample_inputs`, which raises InputError where it cannot.

    Raises AssertionError with the rule, the dtype and the error.
    """
    sample = inputs or sample_inputs(rule)
    for dtype in dtypes:
        for seed in range(num_draws):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                bindings = sample(dtype)
            got = _results(rule.replacement, bindings)
            where = f"{rule.name} in {str(dtype).removeprefix('torch.')}"
            for form in forms_of(rule.pattern):
                found, reference = _results(form, bindings), _results(form, _widened(bindings))
                _compare(where, got, found, reference, tolerances[dtype])
            if same_rounding and dtype.itemsize == 2:
                _compare_bits(where, got, _results(rule.pattern, bindings))


def forms_of(expression: Any) -> Iterator[Any]:
    """The ways to write an expression: each alternative once, with the first choice everywhere else."""
    match expression:
        case AnyOf(choices):
            for choice in choices:
                yield from forms_of(choice)
        case Maybe(present, absent):
            yield from forms_of(present)
            yield from forms_of(absent)
        case Cast(x, dtype):
            yield from (Cast(form, dtype) for form in forms_of(x))
        case Call(target, args):
            yield from (Call(target, tuple(form)) for form in _forms_of_items(args))
        case Outputs(items):
            yield from (Outputs(tuple(form)) for form in _forms_of_items(items))
        case list() | tuple():
            yield from map(list, _forms_of_items(expression))
        case _:
            yield expression


def _forms_of_items(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    choices = [list(forms_of(item)) for item in items]
    first = [forms[0] for forms in choices]
    yield first
    for index, forms in enumerate(choices):
        yield from ([*first[:index], form, *first[index + 1 :]] for form in forms[1:])


def relative_error(got: Tensor, reference: Tensor) -> float:
    """The largest `‖got - reference‖ / ‖reference‖` of any row, in float64.

    A row counts as no smaller than the least numbers that the dtype of `got` holds in full precision.
    """
    least = torch.finfo(got.dtype).smallest_normal if got.is_floating_point() else 1.0
    got, reference = (one.double().reshape(-1, *one.shape[-1:]) for one in (got, reference))
    sizes = reference.norm(dim=-1).clamp_min(least * reference.shape[-1] ** 0.5)
    return float(((got - reference).norm(dim=-1) / sizes).max())


def _results(expression: Any, bindings: Mapping[str, Any]) -> list[Tensor]:
    result = evaluate(expression, bindings)
    return list(result) if isinstance(result, (list, tuple)) else [result]


def _widened(bindings: Mapping[str, Any]) -> dict[str, Any]:
    """The same values in float64, and float64 for every floating dtype that the pattern casts to."""
    return {name: _wide(value) for name, value in bindings.items()}


def _wide(value: Any) -> Any:
    match value:
        case Tensor():
            return value.double() if value.is_floating_point() else value
        case torch.dtype():
            return torch.float64 if value.is_floating_point else value
        case list() | tuple():
            return [_wide(item) for item in value]
        case _:
            return value


def _compare(
    where: str, got: Sequence[Tensor], found: Sequence[Tensor], reference: Sequence[Tensor], tolerance: float
) -> None:
    assert len(got) == len(found), f"{where}: {len(got)} results for the pattern's {len(found)}"
    for one, other, wanted in zip(got, found, reference, strict=True):
        assert isinstance(one, Tensor), f"{where}: a result of the replacement is a {type(one).__name__}, no tensor"
        assert one.shape == other.shape, f"{where}: the replacement is {tuple(one.shape)}, not {tuple(other.shape)}"
        assert one.dtype == other.dtype, f"{where}: the replacement is {one.dtype}, not {other.dtype}"
        error = relative_error(one, wanted)
        assert error <= tolerance, f"{where}: relative error {error:.1e}, above {tolerance:.0e}"  # NaN fails too


def _compare_bits(where: str, got: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    for one, other in zip(got, found, strict=True):
        share = float((one != other).double().mean())
        assert share <= _MAX_DIFFERING, f"{where}: {share:.0%} of the elements are rounded otherwise"
