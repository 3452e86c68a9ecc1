"""What `--quantize` means to a recipe."""

from __future__ import annotations

from typing import Any

from autodeploy.quantization.scheme import find_scheme


def quantize_values(quantize: str | None) -> dict[str, Any]:
    """The settings that `--quantize NAME` stands for, none without it; RecipeError where no scheme has that name."""
    if quantize is None:
        return {}
    find_scheme(quantize, "--quantize")
    return {"passes.mark_precision.scheme": quantize}
