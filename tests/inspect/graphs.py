"""Small models that the tests of views share; nothing of them is changed."""

from __future__ import annotations

from functools import cache

import autodeploy as ad
from autodeploy.export import Traced
from autodeploy.optimizer import Optimized
from autodeploy.testing import tiny_config


@cache
def traced(num_layers: int = 3) -> Traced:
    config = tiny_config("llama")
    config.num_hidden_layers = num_layers
    return ad.trace(config)


@cache
def optimized(num_layers: int = 3) -> Optimized:
    """All layers but the first are alike: the last one is not made to compute fewer rows."""
    return ad.optimize(traced(num_layers), gpu="cpu", set={"passes.hoist_logit_rows": False})
