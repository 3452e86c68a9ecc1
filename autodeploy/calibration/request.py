"""What is asked of a calibration: the text, how ranges are found, and what is done to weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from autodeploy.errors import InputError, nearest
from autodeploy.quality.text import SAMPLE
from autodeploy.quantization import Scheme
from autodeploy.quantization.option import TECHNIQUES, Technique

METHODS = ("max", "percentile", "mse", "entropy")
"""How the largest number that is kept is found; what lies beyond it saturates."""


@dataclass(frozen=True)
class Request:
    """Which calibration is wanted: `quantize` names a technique such as `awq` or a scheme, `cache` the cache's format.

    A plain scheme that quantizes inputs gets static scales for them.
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

        Techniques calibrate on our sample when no text is given. Raises InputError for a method without an effect.
        """
        if calibrate is None and quantize not in TECHNIQUES:
            if method is not None:
                raise InputError(f"--method {method}: it says how to calibrate; add --calibrate FILE or {SAMPLE}")
            return None
        return cls(calibrate or SAMPLE, method or METHODS[0], quantize or "none", cache)

    @property
    def technique(self) -> Technique:
        """What is done to weights; a plain scheme has static inputs where it quantizes them."""
        return TECHNIQUES.get(self.quantize, Technique(self.quantize, static=True))

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def can_be_static(scheme: Scheme) -> bool:
    """Whether inputs that `scheme` quantizes as they come can have one scale instead."""
    return scheme.activations == "dynamic" and not scheme.activation_group
