"""Weights quantized as they are read: once for all parts, in pieces, and by rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autodeploy.quantization import SCHEMES, Scheme, dequantize, round_weight
from autodeploy.weights import (
    Cast,
    Concat,
    Dequantized,
    Expression,
    MemorySource,
    PartReader,
    Quantized,
    Slice,
    Stored,
    WeightPlan,
    quantized,
    stored,
    why_apart,
)

QUANTIZED = [name for name, scheme in SCHEMES.items() if scheme.is_quantized]
TENSORS = {name: torch.randn(320, 256, generator=torch.manual_seed(seed)) for seed, name in enumerate("ab")}
SOURCE = MemorySource(TENSORS)
A, B = (Stored.of(name, SOURCE) for name in "ab")


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.float(), other.float())


@pytest.mark.parametrize("name", QUANTIZED)
def test_parts_are_those_of_rounding(name: str) -> None:
    expected = round_weight(TENSORS["a"], SCHEMES[name])
    for part, expression in Quantized.parts(A, SCHEMES[name]).items():
        assert (expression.shape, expression.dtype) == (getattr(expected, part).shape, getattr(expected, part).dtype)
        assert same(expression.read(SOURCE), getattr(expected, part))


@pytest.mark.parametrize("name", QUANTIZED)
def test_pieces_give_what_the_whole_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {part: one.read(SOURCE) for part, one in Quantized.parts(A, SCHEMES[name]).items()}
    monkeypatch.setattr(quantized, "PIECE_BYTES", 128 * 256 * 4)
    assert all(same(one.read(SOURCE), expected[part]) for part, one in Quantized.parts(A, SCHEMES[name]).items())


@pytest.mark.parametrize("name", QUANTIZED)
def test_some_rows_are_those_of_the_whole(name: str) -> None:
    for part, one in Quantized.parts(Concat((A, B), 0), SCHEMES[name]).items():
        if part == "global_scale" or one.shape[0] == 1:
            continue
        low, high = one.shape[0] // 3, one.shape[0] // 2 + 1
        assert same(one.read(SOURCE, ((low, high), (0, one.shape[1]))), one.read(SOURCE)[low:high])


def test_only_the_rows_that_are_needed_are_read(recording: Any) -> None:
    source = recording(TENSORS)
    values = Quantized.parts(Concat((A, B), 0), SCHEMES["fp8"])["values"]
    values.read(source, ((0, 100), (0, 256)))
    assert source.elements == {"a": 128 * 256}


@pytest.mark.parametrize("name", ["fp8", "int4_zeros"])
def test_a_plan_reads_a_weight_once_for_all_of_its_parts(name: str, recording: Any) -> None:
    source = recording(TENSORS)
    parts = Quantized.parts(A, SCHEMES[name])
    read = WeightPlan({f"w.{part}": one for part, one in parts.items()}).read(source)
    assert source.elements == {"a": 320 * 256}
    assert all(same(read[f"w.{part}"], one.read(SOURCE)) for part, one in parts.items())


def test_a_reader_keeps_the_parts_of_one_weight_only() -> None:
    reader = PartReader(SOURCE)
    for weight in (A, B, A):
        scale = Quantized.parts(weight, SCHEMES["fp8"])["scale"]
        assert same(reader.read(scale), scale.read(SOURCE))
    assert same(reader.read(A), TENSORS["a"])


def pack(name: str, scheme: Scheme, rows: int, tensors: dict[str, Tensor], **more: Any) -> Dequantized:
    """A weight as a checkpoint stores it, whose parts `tensors` gets."""
    parts = round_weight(torch.randn(rows, 256), scheme)
    found = {part: getattr(parts, part) for part in ("values", "scale", "zero", "global_scale")}
    tensors.update({f"{name}.{part}": one for part, one in found.items() if one is not None})
    source = MemorySource(tensors)
    values, scale = (Stored.of(f"{name}.{part}", source) for part in ("values", "scale"))
    zero, global_scale = (
        None if found[part] is None else Stored.of(f"{name}.{part}", source) for part in ("zero", "global_scale")
    )
    return Dequantized(values, scale, zero, global_scale, scheme.weights, torch.float32, **more)


def numbers(weight: Dequantized, source: MemorySource) -> Tensor:
    """What the parts stand for, each read whole."""
    values, scale, zero, global_scale = (None if part is None else part.read(source) for part in weight.parts)
    assert values is not None
    assert scale is not None
    return dequantize(values, scale, zero, global_scale, weight.format)


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_stored_weight_reads_as_its_numbers(name: str) -> None:
    tensors: dict[str, Tensor] = {}
    scheme = SCHEMES[name]
    inputs = {"activations": scheme.activations, "activation_group": scheme.activation_group}
    weight = pack("w", scheme, 320, tensors, **inputs)
    source = MemorySource(tensors)
    expected = numbers(weight, source)
    assert weight.scheme == scheme
    assert weight.shape == (320, 256)
    assert torch.equal(weight.read(source), expected)
    assert torch.equal(weight.read(source, ((100, 290), (3, 200))), expected[100:290, 3:200])
    assert torch.equal(Cast(weight, torch.bfloat16).read(source), expected.bfloat16())


@pytest.mark.parametrize("name", [one for one in QUANTIZED if one != "nvfp4"])
def test_stored_weights_one_below_the_other_are_so_of_their_parts(name: str) -> None:
    tensors: dict[str, Tensor] = {}
    weights = [pack(key, SCHEMES[name], 256, tensors) for key in "xy"]
    source = MemorySource(tensors)
    joined = stored(Concat(tuple(weights), 0))
    assert joined is not None
    assert torch.equal(numbers(joined, source), torch.cat([numbers(one, source) for one in weights]))
    some = stored(Slice(joined, 0, 128, 512))
    assert some is not None
    assert torch.equal(numbers(some, source), numbers(joined, source)[128:])


def test_what_cannot_be_taken_over_says_why() -> None:
    tensors: dict[str, Tensor] = {}
    ragged = [pack(key, SCHEMES["fp8_block"], 200, tensors) for key in "xy"]
    assert why_apart(ragged) == "their blocks of 128 would not line up"
    assert why_apart([ragged[0], pack("i", SCHEMES["int8"], 200, tensors)]) == "they are stored in different formats"
    own = [pack(key, SCHEMES["nvfp4"], 200, tensors) for key in "pq"]
    assert why_apart(own) == "they have scales of their own for their inputs or groups"
    for parts in (ragged, own):
        whole: Expression = Concat(tuple(parts), 0)
        assert stored(whole) is None
        assert torch.equal(whole.read(MemorySource(tensors))[:200], numbers(parts[0], MemorySource(tensors)))
    assert stored(Slice(ragged[0], 0, 0, 100)) is None
    assert stored(A) is None
    assert stored(Concat((ragged[0], A), 0)) is None
