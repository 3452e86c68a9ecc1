"""How shapes are written for readers: dynamic sizes by what they count, and results that an artifact keeps as text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.fx import Graph, Node

from autodeploy.graph.text import Notation

# What each dynamic size of a step's inputs counts, by position: tokens, rows of logits, requests, pages of each.
_COUNTED: Mapping[str, tuple[str | None, ...]] = MappingProxyType(
    {
        "input_ids": (None, "T"),
        "position_ids": (None, "T"),
        "slots": ("T",),
        "logit_rows": ("R",),
        "query_start": ("B+1",),
        "context_len": ("B",),
        "page_table": ("B", "P"),
        "key_pages": ("pages", None, "page", None),
        "value_pages": ("pages", None, "page", None),
    }
)
_SHORT = (
    ("bfloat16", "bf16"), ("float8_e4m3fn", "f8e4m3"), ("float16", "f16"), ("float32", "f32"), ("float64", "f64"),
    ("uint8", "u8"), ("int8", "i8"), ("int32", "i32"), ("int64", "i64"),
)  # fmt: skip


class Labels(Notation):
    """The notation of a graph's texts, with names for its dynamic sizes. T counts tokens, B requests, R logits."""

    def __init__(self, graph: Graph) -> None:
        self._sizes: dict[str, str] = {}
        for node in graph.find_nodes(op="placeholder"):
            self._learn(node)

    def size(self, size: int | torch.SymInt) -> str:
        """A size by what it counts, or else by the graph's own symbol."""
        return self._sizes.get(str(size), str(size))

    def renamed(self, text: str) -> str:
        """A text of the graph, which has its own symbols, with what they count."""
        return re.sub(r"\bs\d+\b", lambda found: self._sizes.get(found[0], found[0]), text)

    def result(self, node: Node) -> str:
        """Dtype and shape of what a node gives; of an artifact's graph, from the text that is kept there."""
        text = node.meta.get("val_text")
        if "val" in node.meta or not isinstance(text, str):
            return super().result(node)
        for long, short in _SHORT:
            text = text.replace(long, short)
        return text.removeprefix("(").removesuffix(")")

    def _learn(self, node: Node) -> None:
        value = node.meta.get("val")
        stem = node.name.rstrip("0123456789").rstrip("_")
        if isinstance(value, Tensor):
            for size, counted in zip(value.shape, _COUNTED.get(stem, ()), strict=False):
                if counted and isinstance(size, torch.SymInt):
                    self._sizes[str(size)] = counted
