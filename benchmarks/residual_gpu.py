"""A projection, the sum with a residual and its norm: added by the norm, and by the projection, each at its fastest.

python benchmarks/residual_gpu.py [--rows 1,8,64,256,1024,4096] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from autodeploy.kernels import builtin_kernels
from autodeploy.kernels.triton.norm import add_rms_norm, rms_norm
from autodeploy.tuning import Matmul
from autodeploy.tuning.measure import Candidate, copies_of, correct
from autodeploy.tuning.operands import expected_result, random_operands
from autodeploy.tuning.timing import seconds_a_call
from autodeploy.tuning.tune import candidates_of

PROJECTIONS = {"out": (4096, 4096), "down": (4096, 14336)}
"""Those of Llama-3.1-8B that a residual follows: rows and columns of the weight."""
BF16 = torch.bfloat16
Operands = tuple[Tensor, Tensor, Tensor]


def added_by_norm(run: Callable[..., Tensor], x: Tensor, weight: Tensor, residual: Tensor, scale: Tensor) -> object:
    return add_rms_norm(run(x, weight, None), residual, scale, 1e-5)


def added_by_projection(
    run: Callable[..., Tensor], x: Tensor, weight: Tensor, residual: Tensor, scale: Tensor
) -> object:
    return rms_norm(run(x, weight, residual), scale, 1e-5)


def times(rows: int, n: int, k: int, has_residual: bool) -> dict[str, float]:
    """Microseconds of each candidate with its norm, the fastest first; RuntimeError where one is wrong."""
    matmul = Matmul(n, k, "bfloat16", has_residual=has_residual)
    found = candidates_of(matmul, rows, builtin_kernels("cuda"))
    operands = random_operands(matmul, rows, 1)[0]
    right = correct(found, operands, lambda: expected_result(matmul, operands), BF16)
    if len(right) < len(found):
        raise RuntimeError(f"wrong at {rows} rows of {matmul}: {[one.name for one in found if one not in right]}")
    step = added_by_projection if has_residual else added_by_norm
    scale = torch.ones(n, device="cuda", dtype=BF16)
    given: Sequence[Operands] = random_operands(
        Matmul(n, k, "bfloat16", has_residual=True), rows, copies_of(matmul.weight_bytes)
    )

    def seconds(one: Candidate) -> float:
        return seconds_a_call([partial(step, one.run_over, *operands, scale) for operands in given])

    return dict(sorted(((one.name, seconds(one) * 1e6) for one in right), key=lambda pair: pair[1]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", default="1,8,64,256,1024,4096")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = []
    for rows in map(int, options.rows.split(",")):
        for name, (n, k) in PROJECTIONS.items():
            both = [times(rows, n, k, has_residual) for has_residual in (False, True, False, True)]
            best = [next(iter(one.items())) for one in both]
            results.append({"projection": name, "rows": rows, "by_norm": both[::2], "by_projection": both[1::2]})
            told = "  ".join(f"{seconds:8.2f}" for _, seconds in best)
            print(f"{name:5} {rows:5} norm/projection twice: {told}  {best[2][0]} -> {best[3][0]}", flush=True)
            if options.json is not None:
                machine = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
                options.json.write_text(json.dumps({**machine, "results": results}, indent=1))


if __name__ == "__main__":
    main()
