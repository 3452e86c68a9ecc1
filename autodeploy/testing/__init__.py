"""The test kit for patterns, passes and plugins.

Imported in pieces: pytest loads the plugin of this package wherever it is installed, which must not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autodeploy.testing.counts import assert_counts, op_counts
    from autodeploy.testing.families import FAMILIES, tiny_config, tiny_model
    from autodeploy.testing.golden import assert_golden
    from autodeploy.testing.mutation import Mutant, mutants, surviving_mutants
    from autodeploy.testing.patterns import check_pattern, relative_error
    from autodeploy.testing.samples import Sampler, sample_inputs, sample_tokens
    from autodeploy.testing.text import graph_text

_HOMES = {
    "FAMILIES": "families",
    "Mutant": "mutation",
    "Sampler": "samples",
    "assert_counts": "counts",
    "assert_golden": "golden",
    "check_pattern": "patterns",
    "graph_text": "text",
    "mutants": "mutation",
    "op_counts": "counts",
    "relative_error": "patterns",
    "sample_inputs": "samples",
    "sample_tokens": "samples",
    "surviving_mutants": "mutation",
    "tiny_config": "families",
    "tiny_model": "families",
}

__all__ = [
    "FAMILIES",
    "Mutant",
    "Sampler",
    "assert_counts",
    "assert_golden",
    "check_pattern",
    "graph_text",
    "mutants",
    "op_counts",
    "relative_error",
    "sample_inputs",
    "sample_tokens",
    "surviving_mutants",
    "tiny_config",
    "tiny_model",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'autodeploy.testing' has no attribute {name!r}")
    return getattr(import_module(f"autodeploy.testing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
