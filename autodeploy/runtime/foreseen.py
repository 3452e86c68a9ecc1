"""The kernels that an artifact says its engine will launch, known before anything slow is imported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "kernels.json"
OURS = "autodeploy.kernels.triton."
"""Where kernels are that may be imported because a file says so."""

CUDA = "CUDA C++"
"""Stands for the module of kernels that are compiled by NVRTC."""

Job = tuple[str, str, str]
"""A kernel's module and name, and the text in which Triton describes what it is to be compiled for.

Of a kernel in CUDA C++: `CUDA`, its file, and as JSON what makes its `Variant`.
"""


@dataclass(frozen=True)
class Foreseen:
    """Kernels for a GPU of `target` (Triton's name of it, its architecture, the threads of a warp).

    Under the same `conditions` there are no others.
    """

    conditions: Mapping[str, Any]
    target: tuple[str, int, int]
    kernels: tuple[Job, ...]

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON data."""
        return {"conditions": dict(self.conditions), "target": self.target, "kernels": self.kernels}


def read_foreseen(folder: Path) -> Foreseen | None:
    """What is foreseen in an artifact's folder; None where nothing is.

    Kernels outside this package are left out, since compiling one imports its module. What is wrong with the artifact
    is not found here.
    """
    try:
        data = json.loads((folder / FILE).read_bytes())
        backend, arch, warp_size = data["target"]
        kernels = tuple((module, name, described) for module, name, described in data["kernels"])
        return Foreseen(
            data["conditions"],
            (str(backend), int(arch), int(warp_size)),
            tuple(one for one in kernels if one[0].startswith(OURS) or one[0] == CUDA),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
