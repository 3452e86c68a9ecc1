"""Settling the choices of a graph in the layer that it repeats, or remembering how they were settled."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch.fx import Graph

from autodeploy.kernels import KernelTable
from autodeploy.tuning.choices import Choices, Site
from autodeploy.tuning.descent import settle, settled_choices, settled_rows
from autodeploy.tuning.layer import repeated_layer, why_untimed
from autodeploy.tuning.layer_time import LayerTime
from autodeploy.tuning.store import Conditions, load_settled, save_settled

NOT_SETTLED = "kernels are the fastest alone, which was not tried in a layer: {}"


def settle_in_layer(
    graph: Graph, choices: Choices, table: KernelTable, here: Conditions, observe: Callable[[Site], None]
) -> tuple[Choices, tuple[str, ...]]:
    """The choices with those of few rows settled, and what to tell of it.

    What is settled holds for layers that are the same in all that matters, whichever model they are of: the user's
    cache has it by `Layer.key`.
    """
    layer = repeated_layer(graph)
    if layer is None:
        return choices, (NOT_SETTLED.format("no layer with attention repeats"),)
    reason = why_untimed(layer, table)
    if reason is not None:
        return choices, (NOT_SETTLED.format(reason),)
    sites = [site for site in dict.fromkeys(layer.sites.values()) if site in choices.entries]
    rows = settled_rows(choices, sites)
    known = load_settled(here, layer.key)
    if not known.missing(sites, lambda site: {choice.rows for choice in choices.entries[site]} & rows):
        return choices.updated(known), ()
    observe(sites[0])
    started = time.perf_counter()
    settled = settle(choices, sites, lambda rows: LayerTime(layer, table, rows))
    found = settled_choices(settled)
    save_settled(here, layer.key, found)
    took = f"tried what is close in a layer in {time.perf_counter() - started:.1f} s"
    return choices.updated(found), (*(str(one) for one in reversed(settled)), took)
