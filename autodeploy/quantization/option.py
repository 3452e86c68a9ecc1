"""What `--quantize` means to a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from autodeploy.errors import RecipeError, nearest
from autodeploy.quantization.scheme import SCHEMES, Scheme

AUTO = "auto"
"""What `--quantize` takes besides the names of schemes: a search, whose result becomes rules."""
FASTEST = "fastest"
"""Likewise: the scheme in which the workload's steps are predicted to be shortest on the device."""


@dataclass(frozen=True)
class Technique:
    """How weights are brought to a scheme with calibration's help.

    `smoothing` moves part of what is large in inputs into the weights, or of what matters (Xiao et al., 2022; Lin et
    al., 2023). `rounding` by gptq makes up for each rounded weight with those that come after it (Frantar et al.,
    2022). `static` gives inputs scales that are known beforehand. `alpha` is how much of what is large smoothquant
    moves: half of it where each token has a scale (the paper's advice), all where one scale serves all channels.
    """

    scheme: str
    smoothing: Literal["none", "smoothquant", "awq"] = "none"
    rounding: Literal["nearest", "gptq"] = "nearest"
    static: bool = False
    alpha: float = 0.5


TECHNIQUES: Mapping[str, Technique] = MappingProxyType(
    {
        "smoothquant": Technique("int8_dynamic", "smoothquant"),
        "smoothquant_static": Technique("int8_dynamic", "smoothquant", static=True, alpha=1.0),
        "awq": Technique("int4", "awq"),
        "awq_g64": Technique("int4_g64", "awq"),
        "awq_g32": Technique("int4_g32", "awq"),
        "gptq": Technique("int4", rounding="gptq"),
        "gptq_g64": Technique("int4_g64", rounding="gptq"),
        "gptq_g32": Technique("int4_g32", rounding="gptq"),
        "nvfp4_awq": Technique("nvfp4", "awq"),
    }
)
"""What `--quantize` takes besides the names of schemes, and what needs calibration."""


def scheme_of_option(name: str) -> Scheme:
    """The scheme that `--quantize NAME` gives to projections; RecipeError, with the nearest name, where it is none."""
    if name in (AUTO, FASTEST):
        raise RecipeError(f"--quantize {name}: only autodeploy build looks for a scheme; give the name of one")
    if name not in SCHEMES and name not in TECHNIQUES:
        raise RecipeError(f"--quantize {name}: no such scheme; {nearest(name, [*SCHEMES, *TECHNIQUES, AUTO, FASTEST])}")
    return SCHEMES[_scheme_name(name)]


def quantize_values(quantize: str | None) -> dict[str, Any]:
    """The settings that `--quantize NAME` stands for, none without it; RecipeError where no scheme has that name."""
    if quantize is None:
        return {}
    scheme_of_option(quantize)
    return {"passes.mark_precision.scheme": _scheme_name(quantize)}


def _scheme_name(name: str) -> str:
    return TECHNIQUES[name].scheme if name in TECHNIQUES else name
