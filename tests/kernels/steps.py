"""Random steps of a batch, and how far a result is from the reference computed in float64-like precision."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from autodeploy import ops

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def error(out: Tensor, expected: Tensor) -> float:
    """`‖out - expected‖ / ‖expected‖`; NaN where the result has one."""
    difference = (out.double() - expected.double()).norm()
    return float(difference / expected.double().norm().clamp_min(1e-30))


@dataclass(frozen=True)
class Shape:
    """Sizes of an attention layer and its cache."""

    heads: int = 3
    kv_heads: int = 1
    key_width: int = 64
    value_width: int = 64
    page_size: int = 16


@dataclass(frozen=True)
class Step:
    """The arguments of one call of paged_attention."""

    tensors: tuple[Tensor, ...]
    options: dict[str, Any] = field(default_factory=dict)

    def call(self, run: Any) -> tuple[Tensor, Tensor, Tensor]:
        """The output and the cache afterwards; the step itself keeps the cache it had."""
        tensors = tuple(tensor.clone() for tensor in self.tensors)
        return run(*tensors, **self.options), tensors[3], tensors[4]

    def expected(self) -> tuple[Tensor, Tensor, Tensor]:
        """The reference in float32, from the same (rounded) values, on the CPU."""
        tensors = (tensor.cpu() for tensor in self.tensors)
        wide = tuple(tensor.float() if tensor.is_floating_point() else tensor for tensor in tensors)
        options = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in self.options.items()}
        return Step(wide, options).call(ops.paged_attention.reference)

    def to(self, device: str) -> Step:
        options = {
            name: value.to(device) if isinstance(value, Tensor) else value for name, value in self.options.items()
        }
        return Step(tuple(tensor.to(device) for tensor in self.tensors), options)

    def narrowed(self, queries: slice, request: int, length: int) -> Step:
        """One request alone, with only the rows `queries` of it, when its context was `length` long."""
        q, k, v, key_pages, value_pages, _, _, page_table, slots = self.tensors
        rows = tuple(tensor[queries] for tensor in (q, k, v))
        count = rows[0].shape[0]
        tables = (torch.tensor([0, count], dtype=torch.int32), torch.tensor([length], dtype=torch.int32))
        return replace(
            self,
            tensors=(*rows, key_pages, value_pages, *tables, page_table[request : request + 1], slots[queries]),
        )


def make_step(
    shape: Shape,
    requests: list[tuple[int, int]],
    dtype: torch.dtype,
    *,
    padding: int = 0,
    seed: int = 0,
    **options: Any,
) -> Step:
    """A step of `requests`, each (new tokens, context length), on shuffled pages; unused cache is NaN."""
    random = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=random).to(dtype)

    needed = [-(-length // shape.page_size) for _, length in requests]
    num_pages = sum(needed) + 2
    order = torch.randperm(num_pages - 1, generator=random) + 1  # page 0 takes what padding rows write
    table = torch.full((len(requests), max(needed) + 1), -1, dtype=torch.int32)
    key_pages = torch.full((num_pages, shape.kv_heads, shape.page_size, shape.key_width), float("nan"), dtype=dtype)
    value_pages = torch.full((num_pages, shape.kv_heads, shape.page_size, shape.value_width), float("nan"), dtype=dtype)
    slots: list[int] = []
    for request, (new, length) in enumerate(requests):
        pages, order = order[: needed[request]], order[needed[request] :]
        table[request, : len(pages)] = pages.int()
        for position in range(length):
            page, offset = int(pages[position // shape.page_size]), position % shape.page_size
            if position < length - new:
                key_pages[page, :, offset] = draw(shape.kv_heads, shape.key_width)
                value_pages[page, :, offset] = draw(shape.kv_heads, shape.value_width)
            else:
                slots.append(page * shape.page_size + offset)
    rows = len(slots) + padding
    slots += list(range(padding))
    starts = torch.tensor([0, *(new for new, _ in requests)]).cumsum(0).int()
    tensors = (
        draw(rows, shape.heads, shape.key_width),
        draw(rows, shape.kv_heads, shape.key_width),
        draw(rows, shape.kv_heads, shape.value_width),
        key_pages,
        value_pages,
        starts,
        torch.tensor([length for _, length in requests], dtype=torch.int32),
        table,
        torch.tensor(slots, dtype=torch.int64),
    )
    if options.pop("sinks", False):
        options["sinks"] = draw(shape.heads)
    if options.pop("alibi", False):
        options["alibi_slopes"] = torch.rand(shape.heads, generator=random)
    return Step(tensors, {"scale": shape.key_width**-0.5, **options})
