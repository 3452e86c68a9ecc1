"""Keys and values cached in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch.fx import GraphModule, Node
from typing_extensions import override

from autodeploy.errors import RecipeError
from autodeploy.graph.inputs import insert_weight
from autodeploy.graph.nodes import arguments, calls_of, insert_call, value
from autodeploy.graph.origin import module_path
from autodeploy.passes.rounded_inputs import rounded
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.quantization import FORMATS
from autodeploy.weights import Expand, Reshape
from autodeploy.weights.expression import Cast

aten = torch.ops.aten
ops = torch.ops.autodeploy
_PAGES: Mapping[str, str] = MappingProxyType({"key": "k_scale", "value": "v_scale"})


class QuantizeCache(Pass):
    """Keep the pages of every attention in `format`: half of 16 bits, so that twice the tokens fit.

    Keys and values are divided by the checkpoint's calibrated scales, `….self_attn.k_scale` and `v_scale`, where it
    holds them. Without them fp8 needs none, since keys and values seldom come near its largest number; int8 does.
    """

    name: ClassVar[str] = "quantize_cache"
    stage: ClassVar[Stage] = Stage.CACHE
    exact: ClassVar[bool] = False  # keys and values are rounded
    lossy: ClassVar[bool] = True
    tolerance: ClassVar[float] = 1e-5
    format: Literal["auto", "fp8", "int8"] = "auto"

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Change the dtype of the pages, and give attention their scales; `auto` leaves them in the model's dtype.

        Raises RecipeError for int8 without scales.
        """
        if self.format == "auto":
            return 0
        changed = 0
        for attention in calls_of(gm.graph, ops.paged_attention.default):
            if not ctx.spend():
                break
            scales = [self._scale(gm, ctx, attention, kind) for kind in _PAGES]
            named = arguments(attention)
            for kind in _PAGES:
                _set_dtype(named[f"{kind}_pages"], FORMATS[self.format])
            attention.args = (*list(named.values())[:-2], *scales)
            changed += 1
        return changed

    @override
    def simulate(self, gm: GraphModule, ctx: Context) -> None:
        """Round keys and values before they are cached."""
        for attention in calls_of(gm.graph, ops.paged_attention.default) if self.format != "auto" else ():
            for kind in _PAGES:
                scale = self._scale(gm, ctx, attention, kind)
                rows = arguments(attention)[kind[0]]
                with gm.graph.inserting_before(attention):
                    attention.replace_input_with(rows, self._rounded(rows, scale))

    def _rounded(self, rows: Node, scale: Node | None) -> Node:
        """Keys or values `[T, Hk, D]` as the cache will give them back."""
        graph = rows.graph
        one = insert_call(graph, aten.new_ones.default, (rows, []), {"dtype": torch.float32})
        if scale is None:
            return rounded(rows, self.format, scale=one)
        column = insert_call(graph, aten.unsqueeze.default, (scale, -1))
        wide = insert_call(graph, aten.to.dtype, (rows, torch.float32))
        scaled = rounded(insert_call(graph, aten.div.Tensor, (wide, column)), self.format, scale=one)
        back = insert_call(graph, aten.mul.Tensor, (scaled, column))
        return insert_call(graph, aten.to.dtype, (back, value(rows).dtype))

    def _scale(self, gm: GraphModule, ctx: Context, attention: Node, kind: str) -> Node | None:
        """A weight with the scale of each head, `[Hk]` in float32, of the attention's keys or values."""
        name = f"{module_path(attention)}.{_PAGES[kind]}"
        found = ctx.cache_scales.get(name)
        if found is None and self.format == "int8":
            raise RecipeError(
                f"quantize_cache.format=int8: the checkpoint holds no {name}; int8 needs calibrated scales, "
                "which --calibrate finds, and fp8 needs none"
            )
        if found is None:
            return None
        pages = arguments(attention)[f"{kind}_pages"]
        heads = int(value(pages).shape[1])
        ctx.weights[name] = Expand(Reshape(Cast(found, torch.float32), (max(found.shape, default=1),)), (heads,))
        with gm.graph.inserting_before(attention):
            return insert_weight(gm, name, value(pages).new_empty((heads,), dtype=torch.float32))


def _set_dtype(pages: Node, dtype: torch.dtype) -> None:
    like = value(pages)
    pages.meta["val"] = like.new_empty(like.shape, dtype=dtype)
