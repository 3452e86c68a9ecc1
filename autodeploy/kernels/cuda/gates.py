"""The numbers by which `common.cuh` knows what a gate applies."""

from __future__ import annotations

GATES = {None: 0, "silu": 1, "gelu": 2, "gelu_tanh": 3, "gelu_quick": 4, "relu": 5, "relu_squared": 6, "sigmoid": 7}
