"""Turns a Hugging Face model into the fastest thing that can serve it, and shows every step."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autodeploy.builder import build
    from autodeploy.llm import LLM
    from autodeploy.optimizer import optimize, trace
    from autodeploy.quantizer import quantize
    from autodeploy.runtime.sampling_params import SamplingParams

__version__ = version("fx-autodeploy")
__all__ = ["LLM", "SamplingParams", "__version__", "build", "optimize", "quantize", "trace"]

_HOMES = {
    "LLM": "autodeploy.llm",
    "SamplingParams": "autodeploy.runtime.sampling_params",
    "build": "autodeploy.builder",
    "optimize": "autodeploy.optimizer",
    "quantize": "autodeploy.quantizer",
    "trace": "autodeploy.optimizer",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch and transformers when it is first asked for: the command's help needs neither."""
    if name not in _HOMES:
        raise AttributeError(f"module 'autodeploy' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
