"""Random numbers that depend on nothing but a request's key and a position in it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def uniform_draws(keys: npt.NDArray[np.uint64], positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each key and position (uint64, same shape): SplitMix64 (Steele et al., 2014).

    A draw keyed like this is the same whatever else is in the batch, however the prompt was cut, and after preemption.
    """
    bits = keys + (positions + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits = bits ^ (bits >> np.uint64(31))
    draws: npt.NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return draws
