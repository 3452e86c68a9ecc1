"""Reading a box of an expression gives that box of the whole, and touches no more than it needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autodeploy.weights import (
    Add,
    Cast,
    Concat,
    Constant,
    Expression,
    MemorySource,
    Multiply,
    Permute,
    RandomSource,
    Reshape,
    Slice,
    Stack,
    Stored,
    chunk,
    transpose,
)

TENSORS = {name: torch.randn(4, 6, generator=torch.Generator().manual_seed(seed)) for seed, name in enumerate("abc")}
SOURCE = MemorySource(TENSORS)
A, B, C = (Stored.of(name, SOURCE) for name in "abc")
a, b, c = TENSORS.values()
ROW = Constant("row", torch.arange(6.0))

CASES: list[tuple[Expression, Tensor]] = [
    (A, a),
    (ROW, torch.arange(6.0)),
    (Slice(A, 1, 2, 5), a[:, 2:5]),
    (Slice(Slice(A, 0, 1, 4), 0, 1, 3), a[2:4]),
    (Concat((A, B), 0), torch.cat([a, b])),
    (Concat((A, Slice(B, 1, 0, 2), C), 1), torch.cat([a, b[:, :2], c], 1)),
    (Stack((A, B, C), 0), torch.stack([a, b, c])),
    (Stack((A, B), 2), torch.stack([a, b], 2)),
    (transpose(A), a.T),
    (Permute(Stack((A, B, C), 1), (2, 0, 1)), torch.stack([a, b, c], 1).permute(2, 0, 1)),
    (Reshape(A, (2, 2, 3, 2)), a.reshape(2, 2, 3, 2)),
    (Reshape(transpose(A), (3, 8)), a.T.reshape(3, 8)),
    (Reshape(Slice(A, 1, 3, 4), (2, 2)), a[:, 3].reshape(2, 2)),
    (Add(A, ROW), a + torch.arange(6.0)),
    (Multiply(transpose(A), transpose(B)), (a * b).T),
    (Cast(Concat((A, B), 1), torch.bfloat16), torch.cat([a, b], 1).bfloat16()),
    (Cast(Cast(A, torch.bfloat16), torch.float32), a.bfloat16().float()),
    (Cast(transpose(Cast(A, torch.float16)), torch.float64), a.half().T.double()),
    (Stack((transpose(C), transpose(A)), 0), torch.stack([c.T, a.T])),
]


@pytest.mark.parametrize(("expression", "expected"), CASES)
def test_reads_what_torch_computes(expression: Expression, expected: Tensor) -> None:
    assert expression.shape == tuple(expected.shape)
    assert expression.dtype == expected.dtype
    assert expression.nbytes == expected.nbytes
    assert torch.equal(expression.read(SOURCE), expected)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), case=st.sampled_from(CASES))
def test_a_box_is_that_part_of_the_whole(data: Any, case: tuple[Expression, Tensor]) -> None:
    expression, expected = case
    box = tuple(
        tuple(sorted(data.draw(st.lists(st.integers(0, size), min_size=2, max_size=2, unique=True))))
        for size in expression.shape
    )
    part = expected[tuple(slice(*bounds) for bounds in box)]
    assert torch.equal(expression.read(SOURCE, box), part)
    wider = torch.empty(part.shape, dtype=torch.float64)
    expression.write(SOURCE, box, wider)
    assert torch.equal(wider, part.double())


def test_slices_reach_the_source(recording: Any) -> None:
    source = recording(TENSORS)
    fused = Cast(transpose(Concat((A, B, C), 0)), torch.bfloat16)
    Slice(fused, 1, 3, 5).read(source)  # the last row of a, the first of b
    assert source.elements == {"a": 6, "b": 6}


def test_one_expert_of_a_stack_reads_one_expert(recording: Any) -> None:
    source = recording(TENSORS)
    Slice(Stack((A, B, C), 0), 0, 1, 2).read(source)
    assert source.elements == {"b": 24}


def test_a_reshape_reads_only_the_rows_it_needs(recording: Any) -> None:
    source = recording(TENSORS)
    Slice(Reshape(A, (2, 2, 6)), 0, 1, 2).read(source)
    assert source.elements == {"a": 12}


def test_equal_expressions_are_equal_values() -> None:
    assert Concat((A, B), 0) == Concat((Stored.of("a", SOURCE), B), 0)
    assert hash(transpose(A)) == hash(transpose(A))
    assert Concat((A, B), 0) != Concat((B, A), 0)


def test_leaves_name_what_is_read() -> None:
    assert list(Add(Concat((A, B), 0), ROW).leaves()) == [A, B, ROW]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Slice(A, 1, 2, 9), "range 2:9 is outside"),
        (lambda: Slice(A, 2, 0, 1), "dimension 2 is not one of 0 to 1"),
        (lambda: Concat((A, transpose(B)), 0), "cannot concatenate"),
        (lambda: Concat((A, Cast(B, torch.float16)), 0), "cannot concatenate"),
        (lambda: Stack((A, Slice(B, 0, 0, 1)), 0), "cannot stack"),
        (lambda: Permute(A, (0, 0)), "no order"),
        (lambda: Reshape(A, (5, 5)), "cannot be reshaped"),
        (lambda: chunk(A, 4, 1), "does not divide"),
    ],
)
def test_impossible_shapes_are_refused_at_once(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_random_tensors_depend_on_seed_and_name_only() -> None:
    shapes = {
        "x": torch.empty(64, 64, dtype=torch.bfloat16),
        "y": torch.empty(64, 64),
        "n": torch.ones(3, dtype=torch.int64),
    }
    source = RandomSource(shapes, seed=1)
    assert torch.equal(source.read("x"), RandomSource(shapes, seed=1).read("x"))
    assert torch.equal(source.read("x", ((3, 5), None)), source.read("x")[3:5])
    assert not torch.equal(source.read("x").float(), source.read("y"))
    assert not torch.equal(source.read("y"), RandomSource(shapes, seed=2).read("y"))
    assert source.read("y").std().item() == pytest.approx(0.02, rel=0.05)
    assert source.read("n").tolist() == [0, 0, 0]
