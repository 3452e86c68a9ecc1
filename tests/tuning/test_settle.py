"""Settling the choices of a graph: what is kept for the next build, what is told, and what it leaves right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx import Graph

import autodeploy as ad
from autodeploy.kernels import KernelTable
from autodeploy.kernels.reference import kernels as references
from autodeploy.testing import tiny_config
from autodeploy.tuning import Choice, Choices, Matmul, Site, load_choices, save_choices, sites_of
from autodeploy.tuning.choices import Way
from autodeploy.tuning.settle import settle_in_layer
from autodeploy.tuning.store import load_settled
from tests.families import error, step_of

HERE = {"gpu": "one"}
TABLE = KernelTable(replace(kernel, waits=False) for kernel in references())
TOKENS = list(range(5, 26))
FAST, CLOSE = Way("torch", None, 1e-6), Way("library", None, 1.1e-6)


@pytest.fixture(scope="module")
def graph() -> Graph:
    """Of a model whose layer repeats."""
    config = tiny_config("llama", num_hidden_layers=3)
    graph = ad.optimize(ad.trace(config), gpu="h200").graph_module.graph
    for node in graph.nodes:
        node.meta.pop("backend", None)
    return graph


@pytest.fixture
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows that layers were timed with; they are faster by the library."""
    rows_timed: list[int] = []
    monkeypatch.setenv("AUTODEPLOY_CACHE", str(tmp_path))

    def time_of(layer: Any, table: KernelTable, rows: int) -> Callable[[Mapping[Site, Choice]], float]:
        rows_timed.append(rows)
        return lambda chosen: 50e-6 - 2e-6 * sum(one.backend == "library" for one in chosen.values())

    monkeypatch.setattr("autodeploy.tuning.settle.LayerTime", time_of)
    return rows_timed


def alone(graph: Graph, *rows: int) -> Choices:
    """For every site, with one that is close."""
    choices = tuple(Choice(one, FAST.backend, None, FAST.seconds, close=(CLOSE,)) for one in rows)
    return Choices(dict.fromkeys(sites_of(graph), choices))


def settled_by(graph: Graph, choices: Choices, table: KernelTable = TABLE) -> tuple[Choices, tuple[str, ...]]:
    return settle_in_layer(graph, choices, table, HERE, lambda _: None)


def test_the_layer_decides_and_the_next_build_times_nothing(graph: Graph, timed: list[int]) -> None:
    choices = alone(graph, 1, 8, 256)
    save_choices(HERE, choices)
    found, notes = settled_by(graph, choices)
    assert timed == [8, 1]
    assert notes[0].startswith("a layer of 1 row takes 40.0 us, where what is fastest alone takes 50.0: ")
    assert "in a layer in" in notes[-1]
    head = Matmul(96, 64, "float32")
    decode = {site: one for site, one in found.entries.items() if not getattr(site, "prompt", False)}
    backends = {site: [choice.backend for choice in one] for site, one in decode.items()}
    assert backends.pop(head) == ["torch", "torch", "torch"], "it is in no layer"
    assert all(one == ["library", "library", "torch"] for one in backends.values()), "many rows stay"
    assert load_choices(HERE) == choices, "another layer starts from what is fastest alone"
    assert settled_by(graph, choices) == (found, ())
    assert timed == [8, 1]
    settled_by(graph, alone(graph, 1, 4, 8))
    assert timed == [8, 1, 8, 4, 1], "for other numbers of rows it is settled again"


def test_what_was_settled_stays_when_more_is_measured(graph: Graph, timed: list[int]) -> None:
    found, _ = settled_by(graph, alone(graph, 1))
    save_choices(HERE, Choices({Matmul(1, 1, "float32"): (Choice(1, "torch", None, 1e-6),)}))
    assert settled_by(graph, alone(graph, 1)) == (found, ())
    assert load_settled(HERE, "of no layer") == Choices()


def test_what_cannot_be_timed_keeps_its_choices(graph: Graph, timed: list[int]) -> None:
    choices = alone(graph, 1)
    why = "kernels are the fastest alone, which was not tried in a layer: "
    assert settled_by(Graph(), choices) == (choices, (f"{why}no layer with attention repeats",))
    _, (note,) = settled_by(graph, choices, KernelTable(references()))
    assert note == f"{why}torch.rope_paged_attention waits for the device"
    assert not timed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("quantize", [None, "fp8"])
def test_a_settled_program_gives_the_same(
    quantize: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is settled is one of the candidates, and changes no more than the order of sums."""
    monkeypatch.setenv("AUTODEPLOY_CACHE", str(tmp_path))
    shape = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "num_hidden_layers": 4}
    traced = ad.trace(tiny_config("llama", **shape), dtype="bf16")
    settings = {"passes.tune_kernels.max_rows": 8}
    settled = ad.optimize(traced, gpu="auto", quantize=quantize, set=settings)
    (notes,) = (report.notes for report in settled.history if report.name == "tune_kernels")
    assert any(note.startswith("a layer of 8 rows takes") for note in notes)
    choices = settled.tuning.choices
    fastest_alone = load_choices(settled.tuning.conditions or {})
    for site, choice in choices:
        measured = fastest_alone.find(site, choice.rows)
        assert measured is not None
        assert choice.way in (measured.way, *measured.close)
    again = ad.optimize(traced, gpu="auto", quantize=quantize, set=settings)
    assert again.tuning == replace(settled.tuning, notes=())
    unsettled = replace(again, tuning=replace(again.tuning, choices=fastest_alone))
    logits = []
    for one in (settled, unsettled):
        cache = one.program.new_cache(2, 16)
        steps = (step_of(TOKENS[:20], 0, 16, "cuda"), step_of(TOKENS[20:], 20, 16, "cuda"))
        logits.append([one.program.forward(step, cache) for step in steps][-1])
    assert logits[0].shape[0] == 1
    assert error(*logits) < 0.05
