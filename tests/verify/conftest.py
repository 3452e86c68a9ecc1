"""A tiny Llama of four layers with biases, traced once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from autodeploy.export import Traced, trace_model
from autodeploy.passes.canonicalize_linears import CanonicalizeLinears
from autodeploy.passes.canonicalize_mlps import CanonicalizeMlps
from autodeploy.passes.canonicalize_norms import CanonicalizeNorms
from autodeploy.passes.clean_graph import CleanGraph
from autodeploy.pipeline import Pass
from autodeploy.testing.families import tiny_model
from autodeploy.verify import Verification
from autodeploy.verify.model import model_samples, verify_passes
from autodeploy.weights import MemorySource
from tests.families import config_of, kernel_table

CONFIG = config_of("llama", {"num_hidden_layers": 4, "attention_bias": True, "mlp_bias": True})
CANONICAL: Sequence[Pass] = (CleanGraph(), CanonicalizeLinears(), CanonicalizeNorms(), CanonicalizeMlps())

Verify = Callable[..., Verification]


@pytest.fixture(scope="session")
def source() -> MemorySource:
    return MemorySource(dict(tiny_model(CONFIG).state_dict()))


@pytest.fixture(scope="session")
def traced() -> dict[torch.dtype, Traced]:
    return {dtype: trace_model(CONFIG, dtype) for dtype in (torch.float32, torch.bfloat16)}


@pytest.fixture
def verify(traced: dict[torch.dtype, Traced], source: MemorySource) -> Verify:
    """Verify passes after those that make the graph canonical, in float32 and another dtype."""

    def run(*passes: Pass, dtype: torch.dtype = torch.float32) -> Verification:
        return verify_passes(
            traced[dtype],
            [*CANONICAL, *passes],
            source=source,
            samples=model_samples(traced[dtype]),
            device=torch.device("cpu"),
            kernels=kernel_table(),
        )

    return run
