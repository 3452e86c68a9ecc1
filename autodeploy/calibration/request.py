"""What is asked of a calibration: the text, how ranges are found, and what is done to weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from autodeploy.errors import InputError, nearest
from autodeploy.quality.text import SAMPLE
from autodeploy.quantization import SCHEMES, Scheme
from autodeploy.quantization.option import TECHNIQUES, Technique, scheme_of_option

METHODS = ("max", "percentile", "mse", "entropy")
"""How the largest number that is kept is found; what lies beyond it saturates."""

WINDOW_LEN = 512
NUM_WINDOWS = 16


@dataclass(frozen=True)
class Request:
    """Which calibration is wanted: `quantize` names a technique such as `awq` or a scheme, `cache` the cache's format.

    Inputs of projections get static scales where the technique has them, and where a plain scheme is calibrated.
    """

    text: str = SAMPLE
    method: str = "max"
    quantize: str = "none"
    cache: str = "auto"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"--method {self.method}: not a choice; {nearest(self.method, METHODS)}")

    @classmethod
    def of(cls, quantize: str | None, cache: str, calibrate: str | None, method: str | None) -> Request | None:
        """What the options of a command ask for, or None where they ask for no calibration.

        Techniques calibrate on our sample when no text is given. Raises InputError for options without an effect.
        """
        name = quantize or "none"
        if calibrate is None and name not in TECHNIQUES:
            if method is not None:
                raise InputError(f"--method {method}: it says how to calibrate; add --calibrate FILE or {SAMPLE}")
            return None
        request = cls(calibrate or SAMPLE, method or METHODS[0], name, cache)
        if name not in TECHNIQUES and cache == "auto" and not request.is_static:
            raise InputError(
                f"--calibrate {calibrate}: {name} has nothing to calibrate; "
                "schemes with 8-bit inputs have, a cache in 8 bits, and " + ", ".join(TECHNIQUES)
            )
        return request

    @property
    def technique(self) -> Technique:
        """What is done to weights."""
        return TECHNIQUES.get(self.quantize, Technique(self.quantize if self.quantize in SCHEMES else "none"))

    @property
    def is_static(self) -> bool:
        """Whether inputs get static scales."""
        if self.quantize in TECHNIQUES:
            return self.technique.static
        return can_be_static(scheme_of_option(self.quantize))

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def can_be_static(scheme: Scheme) -> bool:
    """Whether inputs that `scheme` quantizes as they come can have one scale instead."""
    return scheme.activations == "dynamic" and not scheme.activation_group
