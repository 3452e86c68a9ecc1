"""How a bound graph is run: node by node, with its repeated layers compiled, or inside the runtime's CUDA graphs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph

from autodeploy.cache import cache_dir
from autodeploy.errors import UnsupportedError, nearest
from autodeploy.graph.layers import find_layers
from autodeploy.graph.outline import outline
from autodeploy.kernels.native.build import BuildError, find_compiler

CAPTURES = ("none", "compile", "cudagraph")


def capture_graph(graph: Graph, capture: str | None) -> str | None:
    """Compile the layers of `graph` in place when `capture` is "compile"; a sentence when that was not possible.

    With None nothing is compiled: our kernels leave inductor little to fuse, and its guards cost more in every layer
    than it gains (docs/performance.md has the figures). The layers are compiled as one function, when they first run;
    inductor keeps the result in the user's cache. Raises UnsupportedError for another way of capturing.
    """
    if capture in (None, "none", "cudagraph"):  # CUDA graphs hold whole steps, and are the runtime's
        return None
    if capture != "compile":
        raise UnsupportedError(f"capture={capture!r}: not a choice; {nearest(str(capture), CAPTURES)}")
    try:
        find_compiler()
    except BuildError as error:
        return f"the program runs uncompiled: {error}"
    layers = find_layers(graph)
    if not len(layers):
        return "the program runs uncompiled: its layers do not repeat, and compiling each would take minutes"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "inductor"))  # inductor has no other setting
    outline(graph, layers, _compile)
    return None


def _compile(layer: Callable[..., Any]) -> Callable[..., Any]:
    """One compilation for every number of tokens, and another for a single one."""
    compiled: Callable[..., Any] = torch.compile(layer, dynamic=True, fullgraph=True)

    def run_compiled_layer(*inputs: Any) -> Any:
        return compiled(*inputs)

    return run_compiled_layer
