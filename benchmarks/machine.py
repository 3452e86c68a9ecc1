"""What a benchmark's result says of where it was measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from autodeploy.bench import machine


def context() -> dict[str, Any]:
    """The command, the machine and the versions, for the JSON of a result."""
    return machine.context(" ".join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]]))
