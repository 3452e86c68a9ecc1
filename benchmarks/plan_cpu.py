"""How long a plan takes: `python benchmarks/plan_cpu.py [--gpu h200] [--then l4] [--out FILE.json] [MODEL ...]`.

Every config of `tests/explain/models.py`, from 0.1 B to 671 B parameters, is explained by the command, as a user types
it: in a process of its own, once with an empty cache folder, and again for the GPU `--then`. Seconds of wall time and
of processor time; where others share the cores, the former say little.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from machine import context

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.explain.models import MODELS  # noqa: E402 (the tests are found from the repository's root alone)

MOST = 5.0
Seconds = dict[str, float]


def explain(model: str, gpu: str, cache: Path) -> Seconds:
    """The seconds of one command."""
    command = (sys.executable, "-m", "autodeploy", "explain", model, "--gpu", gpu)
    environment = {**os.environ, "AUTODEPLOY_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    before, started = _processor_seconds(), time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall = time.perf_counter() - started
    return {"wall": round(wall, 2), "processor": round(_processor_seconds() - before, 2)}


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(name: str, gpus: tuple[str, str]) -> dict[str, Seconds]:
    """The command for a model that nothing is known of, and for one that was explained for another GPU."""
    with TemporaryDirectory() as folder:
        model, cache = Path(folder) / "model", Path(folder) / "cache"
        MODELS[name].save(model)
        return {run: explain(str(model), gpu, cache) for run, gpu in zip(("first", "second"), gpus, strict=True)}


def main() -> None:
    """Explain each model twice, and print and keep what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), help="of tests/explain/models.py; all of them")
    parser.add_argument("--gpu", default="h200")
    parser.add_argument("--then", default="l4", help="the GPU of the second run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = {}
    for name in options.models:
        rows[name] = measure(name, (options.gpu, options.then))
        told = ", ".join(
            f"{run} {found['wall']:5.1f} s ({found['processor']:.1f})" for run, found in rows[name].items()
        )
        print(f"{name:20} {told}", flush=True)
    for run in ("first", "second"):
        walls = sorted(one[run]["wall"] for one in rows.values())
        within = sum(wall <= MOST for wall in walls)
        print(f"{run}: {within} of {len(walls)} within {MOST:g} s; {walls[len(walls) // 2]} to {walls[-1]}")
    if options.out is not None:
        result = {**context(), "gpus": [options.gpu, options.then], "seconds": rows}
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
