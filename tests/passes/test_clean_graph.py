"""What changes nothing goes; what only looks so stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.graphs import clean, targets
from tests.passes.test_functionalize import functional, graph

aten = torch.ops.aten
Function = Callable[[Tensor], Tensor]

GOES: dict[str, Function] = {
    "times one": lambda x: (x * 1).mul(1.0),
    "over one": lambda x: x / 1,
    "plus zero": lambda x: (x + 0) - 0.0,
    "to the power of one": lambda x: x**1,
    "cast and back": lambda x: x.double().float(),
    "copies": lambda x: x.clone().contiguous().detach(),
    "reshaped to itself": lambda x: x.view(1, -1, 2, 4).reshape(1, -1, 8),
    "taken whole": lambda x: x[:, :, 0:8],
    "expanded to itself": lambda x: x.expand(1, -1, 8),
    "permuted and back": lambda x: x.permute(2, 0, 1).permute(1, 2, 0),
    "transposed and back": lambda x: x.transpose(1, 2).permute(0, 2, 1),
    "parted and joined": lambda x: torch.unflatten(x, -1, (2, 4)).flatten(2),
    "unsqueezed and squeezed": lambda x: x.unsqueeze(-2).squeeze(2),
    "squeezed and unsqueezed": lambda x: x.squeeze(0).unsqueeze(0),
    "squeezed of nothing": lambda x: x.squeeze(-1),
    "joined with nothing": lambda x: torch.cat((x, x[..., 8:]), -1),
    "an inactive dropout": lambda x: torch.dropout(x, 0.5, train=False),
}
STAYS: dict[str, tuple[Function, list[object]]] = {
    "rounded and back": (lambda x: x.bfloat16().float(), [aten.to.dtype, aten.to.dtype]),
    "truncated and back": (lambda x: x.long().float(), [aten.to.dtype, aten.to.dtype]),
    "half to bfloat16": (lambda x: x.half().bfloat16(), [aten.to.dtype, aten.to.dtype]),
    "integers promoted": (lambda x: x.long() + 0.0, [aten.to.dtype, aten.add.Tensor]),
    "integers divided": (lambda x: x.long() / 1, [aten.to.dtype, aten.div.Tensor]),
    "booleans counted": (lambda x: (x > 0) * 1, [aten.gt.Scalar, aten.mul.Tensor]),
    "a zero in a tensor": (lambda x: x[0, 0, 0].long() + x.new_zeros(()), []),
    "one that broadcasts": (lambda x: x[:, :1] * x.new_ones(2, 1), []),
    "swapped otherwise": (lambda x: x.transpose(1, 2).transpose(0, 1), [aten.transpose.int, aten.transpose.int]),
    "turned twice": (lambda x: x.permute(2, 0, 1).permute(2, 0, 1), [aten.permute.default, aten.permute.default]),
    "squeezed elsewhere": (lambda x: x.unsqueeze(0).squeeze(1), [aten.unsqueeze.default, aten.squeeze.dim]),
    "expanded": (lambda x: x[..., :1].expand(1, -1, 8), [aten.slice.Tensor, aten.expand.default]),
    "halved": (lambda x: x[..., ::2], [aten.slice.Tensor]),
    "an active dropout of all": (lambda x: torch.dropout(x, 1.0, train=True), [aten.dropout.default]),
}


@pytest.mark.parametrize("name", GOES)
def test_it_goes(name: str) -> None:
    gm, x = clean(graph(GOES[name])), torch.randn(1, 9, 8)
    assert targets(gm) == []
    assert torch.equal(gm(x), GOES[name](x))


@pytest.mark.parametrize("name", STAYS)
def test_it_stays(name: str) -> None:
    function, wanted = STAYS[name]
    gm, x = clean(graph(function)), torch.randn(1, 9, 8)
    assert not wanted or [found for found in targets(gm) if "sym_size" not in found] == list(map(str, wanted))
    got, expected = gm(x), function(x)
    assert got.dtype == expected.dtype
    assert torch.equal(got, expected)


def test_a_matrix_that_is_turned_twice_is_not_turned() -> None:
    gm, x = clean(graph(lambda x: x[0].t().t())), torch.randn(1, 9, 8)
    assert targets(gm) == ["aten.select.int"]
    assert torch.equal(gm(x), x[0])


def test_a_permute_that_swaps_is_a_transpose() -> None:
    gm = clean(graph(lambda x: x.view(1, -1, 2, 4).permute(0, 2, 1, 3)))
    assert targets(gm)[-1] == "aten.transpose.int"
    assert gm.graph.output_node().all_input_nodes[0].args[1:] == (1, 2)


def test_casts_meet_where_the_first_loses_nothing() -> None:
    gm, x = clean(graph(lambda x: x.double().half())), torch.randn(1, 9, 8) * 1e4
    assert targets(gm) == ["aten.to.dtype"]
    assert torch.equal(gm(x), x.double().half())


def copy_then_write(x: Tensor) -> Tensor:
    y = x * 2
    before = y.clone()
    y.add_(1)
    return before * y


def write_then_cast_to_itself(x: Tensor) -> Tensor:
    y = x * 1  # a copy: what is written next must not be the input
    y.add_(1)
    return y.float() - x


@pytest.mark.parametrize("function", [copy_then_write, write_then_cast_to_itself])
def test_a_copy_of_what_is_written_stays_a_copy(function: Function) -> None:
    gm, x = clean(graph(function)), torch.randn(1, 9, 8)
    assert torch.equal(gm(x.clone()), function(x.clone()))


def written(x: Tensor, *, until: int, since: int) -> Tensor:
    """A tensor of which parts are written: up to an element, and from one on (DeepSeek's keys)."""
    y = x.sin()
    y[..., since:] = x[..., since:].exp()
    y[..., :until] = x[..., :1]
    return y


@pytest.mark.parametrize(("until", "since", "joins"), [(3, 3, True), (4, 3, False), (3, 4, False), (8, 2, False)])
def test_parts_that_are_written_join(until: int, since: int, joins: bool) -> None:
    def function(x: Tensor) -> Tensor:
        return written(x, until=until, since=since)

    gm, x = clean(functional(function)), torch.randn(1, 9, 8)
    assert ("aten.cat.default" in targets(gm)) == joins
    assert ("aten.slice_scatter.default" in targets(gm)) == (not joins and until < 8)
    assert torch.equal(gm(x), function(x))
