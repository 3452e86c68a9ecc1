"""How long a plan takes: `python benchmarks/plan_cpu.py [--gpu h200] [--out FILE.json]`.

Every config of `tests/explain/models.py`, from 0.1 B to 405 B parameters, on one GPU: seconds of processor time, the
lesser of two plans, for the first imports what its family needs, and others may share the core.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from machine import context

from autodeploy.job import plan

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.explain.models import MODELS  # noqa: E402 (the tests are found from the repository's root alone)


def seconds_of(name: str, gpu: str) -> float:
    """The processor time of one plan."""
    with TemporaryDirectory() as folder:
        model = MODELS[name].save(Path(folder))
        started = time.process_time()
        plan(model, gpu=gpu)
        return time.process_time() - started


def main() -> None:
    """Plan each model, and print and keep what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", default="h200")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = {}
    for name in MODELS:
        rows[name] = min(seconds_of(name, options.gpu) for _ in range(2))
        print(f"{name:32}{rows[name]:6.1f} s", flush=True)
    slowest = max(rows, key=rows.__getitem__)
    print(f"{len(rows)} models, at most {rows[slowest]:.1f} s ({slowest})")
    if options.out is not None:
        result = {**context(), "gpu": options.gpu, "seconds": rows}
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
