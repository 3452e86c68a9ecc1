"""How long a layer takes in a decode step, with any choice at its sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from autodeploy.graph.aliases import why_kept
from autodeploy.kernels import KernelTable
from autodeploy.tuning.attention import op_of
from autodeploy.tuning.choices import Chosen, Site
from autodeploy.tuning.dispatch import run_of
from autodeploy.tuning.layer import Layer, kernel_of
from autodeploy.tuning.layer_operands import Given, num_copies, random_given
from autodeploy.tuning.matmul import RESIDUAL, Matmul
from autodeploy.tuning.timing import captured, seconds_a_replay

CALLS = 300
"""In a graph: enough that its launch is next to nothing."""


class LayerTime:
    """Times the layer of some rows on the current GPU. A choice that was timed before is only replayed."""

    def __init__(self, layer: Layer, table: KernelTable, rows: int) -> None:
        count = max(1, CALLS // len(layer.calls))
        given = random_given(layer, rows, num_copies(layer, count))
        self._layer, self._table = layer, table
        self._given = list(islice(cycle(given), count))
        self._graphs: dict[str, torch.cuda.CUDAGraph] = {}

    def __call__(self, chosen: Chosen) -> float:
        """The seconds of one layer."""
        key = " ".join(str(choice.way) for choice in chosen.values())
        if key not in self._graphs:
            runs = runs_of(self._layer, self._table, chosen)
            chained(self._layer, runs, self._given[:2])()  # what is handed on may have other strides than what is given
            self._graphs[key] = captured([chained(self._layer, runs, self._given)])
        return seconds_a_replay(self._graphs[key]) / len(self._given)


def runs_of(layer: Layer, table: KernelTable, chosen: Chosen, device: str = "cuda") -> dict[Node, Callable[..., Any]]:
    """What computes each call of a layer."""
    return {call: _run_of(call, layer.sites.get(call), table, chosen, device) for call in layer.calls}


def chained(layer: Layer, runs: Mapping[Node, Callable[..., Any]], given: Sequence[Given]) -> Callable[[], Given]:
    """Runs layers one after another: each takes what the one before hands on. Gives what the last one knew."""

    @torch.inference_mode()
    def run() -> Given:
        handed: Given = {}
        for one in given:
            known = {**one, **handed}
            for call in layer.calls:
                args = map_arg(call.args, known.__getitem__)
                kwargs = map_arg(call.kwargs, known.__getitem__)
                known[call] = runs[call](*args, **kwargs)
            handed = {node: known[made] for node, made in layer.handed_on.items()}
        return known

    return run


def _run_of(call: Node, site: Site | None, table: KernelTable, chosen: Chosen, device: str) -> Callable[..., Any]:
    if call.target is RESIDUAL and why_kept(call.args[2], call) is None:  # type: ignore[arg-type]
        table = table.overwriting()
    if site is not None and site in chosen:
        return run_of(chosen[site], site.op if isinstance(site, Matmul) else op_of(site), table)
    kernel = kernel_of(call, table, device)
    target: Callable[..., Any] = call.target  # type: ignore[assignment]
    return target if kernel is None else kernel.run
