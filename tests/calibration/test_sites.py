"""Where factors of inputs go: the model computes the same with them, and says where they cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autodeploy.calibration.result import Calibration, Change
from autodeploy.calibration.sites import Fold, Site, find_fold, find_sites
from autodeploy.choosing import Recipe, resolve_settings
from autodeploy.discovery import kernel_table
from autodeploy.export import Traced, trace_model
from autodeploy.hardware import choose_gpu
from autodeploy.optimizer import compile_graph, make_program
from autodeploy.pipeline import Stage, run_passes
from autodeploy.prepare import fitting_passes, prepare
from autodeploy.quality.compare import log_probs
from autodeploy.testing.families import VOCAB_SIZE, tiny_config
from autodeploy.weights import RandomSource
from tests.families import error

CPU = torch.device("cpu")
TOKEN_IDS = torch.randint(3, VOCAB_SIZE, (20,), generator=torch.manual_seed(1)).tolist()


def recipe_of(traced: Traced, scheme: str = "none") -> Recipe:
    options = {"passes.tune_kernels": False, "passes.mark_precision.scheme": scheme}
    return resolve_settings(traced.config, choose_gpu("cpu"), recipe="auto", workload="balanced", values=options)


def sites_of(traced: Traced) -> tuple[Site, ...]:
    gm, context = prepare(traced, RandomSource.of(traced.model), CPU, kernel_table(CPU))
    known = set(context.weights)
    passes = [one for one in fitting_passes(traced, recipe_of(traced, "int8")) if one.stage <= Stage.CANONICALIZE]
    run_passes(gm, passes, context)
    return find_sites(gm.graph, known)


def logits(traced: Traced, calibration: Calibration | None = None) -> torch.Tensor:
    source = RandomSource.of(traced.model)
    return log_probs(
        make_program(compile_graph(traced, recipe_of(traced), source, CPU, calibration=calibration), source, CPU),
        TOKEN_IDS,
    )


def smoothed(traced: Traced) -> tuple[Calibration, list[str]]:
    """Random factors for every input that takes some, and where none go."""
    generator = torch.manual_seed(2)
    changes: dict[str, dict[str, Any]] = {}
    left = []
    for site in sites_of(traced):
        fold = find_fold(site)
        if isinstance(fold, str):
            left.append(f"{site}: {fold}")
            continue
        width = site.weights[0].meta["val"].shape[1]
        factors = fold.shared(torch.rand(width, generator=generator) * 3 + 0.2)
        rows = fold.rows(factors)
        for index, name in enumerate(fold.weights):
            changes.setdefault(name, {})["rows"] = rows
            if fold.offset and index == 0:
                changes[name]["shift"] = (rows - 1) * fold.offset
        for name in site.names:
            changes.setdefault(name, {})["columns"] = 1 / factors
    return Calibration({name: Change(**found) for name, found in changes.items()}), left


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2", "opt"])
def test_factors_change_nothing(family: str) -> None:
    traced = trace_model(tiny_config(family), torch.float32)
    calibration, _ = smoothed(traced)
    assert calibration.changes
    assert error(logits(traced, calibration), logits(traced)) < 1e-5


def test_every_input_of_a_llama_takes_factors() -> None:
    traced = trace_model(tiny_config("llama"), torch.float32)
    _, left = smoothed(traced)
    assert left == []
    sites = sites_of(traced)[:4]
    assert [len(site.names) for site in sites] == [3, 1, 2, 1]
    assert str(sites[0]) == "model.layers.0.self_attn.q_proj, k_proj, v_proj"


def test_where_they_cannot_go_it_is_said() -> None:
    _, left = smoothed(trace_model(tiny_config("phi3"), torch.float32))  # its queries, keys and values are one
    assert left[0] == "model.layers.0.self_attn.o_proj: no projection alone makes the values"
    _, left = smoothed(trace_model(tiny_config("opt"), torch.float32))
    assert left[0] == "model.decoder.layers.0.fc2: its input is made by no norm, gate or attention"


def test_heads_of_one_value_share_their_factors() -> None:
    fold = Fold(("v",), groups=2, size=2)
    factors = torch.tensor([1.0, 4.0, 4.0, 1.0, 2.0, 2.0, 8.0, 2.0])
    assert fold.shared(factors).tolist() == pytest.approx([2.0, 2.0, 2.0, 2.0, 4.0, 2.0, 4.0, 2.0])
    assert fold.rows(fold.shared(factors)).tolist() == pytest.approx([2.0, 2.0, 4.0, 2.0])
