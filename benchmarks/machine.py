"""What a benchmark's result says of where it was measured."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

import autodeploy as ad


def context() -> dict[str, Any]:
    """The command, the machine and the versions, for the JSON of a result."""
    return {
        "command": " ".join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "machine": {"cpu": _cpu(), "threads": torch.get_num_threads()},
        "versions": {
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "autodeploy": ad.__version__,
        },
    }


def _cpu() -> str:
    """The CPU's name and its vector extensions, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine()
    text = info.read_text()
    name = next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "")
    features = [one for one in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16") if f" {one} " in text]
    return f"{name} ({', '.join(features)})"
