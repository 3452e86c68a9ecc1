"""The shares and latencies of `autodeploy/cost/reach.py` from measured decode steps: `python benchmarks/fit_pace.py`.

Reads what `predicted_h200.py` compares with, and prints the values under which the relative errors of all steps are
least, as least squares. A value that steps hardly depend on stays near what was known of it before, its prior. Then
each model and each format of weights is left out in turn, and predicted by a fit to the others. With `--write`, the
values go to `reach.py` and what was left out to `docs/explain.md`; `predicted_h200.py` then writes its table anew.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from predicted_h200 import PAGE, Measured, between, estimate_of, measured_steps, weights_of
from rich.console import Console
from rich.table import Table
from scipy.optimize import least_squares

from autodeploy.cost import Kind, Pace, Work
from autodeploy.hardware import load_gpu

NOISE = 0.04
"""Of a step's time: how far apart two runs were, and more, for the model is no better than that."""
FITTED_KINDS: Sequence[Kind] = ("matmul", "attention", "rows")
REACH = Path(__file__).parents[1] / "autodeploy/cost/reach.py"
BEGIN, END = "<!-- the table of benchmarks/fit_pace.py -->\n", "<!-- its end -->\n"


@dataclass(frozen=True)
class Prior:
    """What is known of a value without the steps, and how far off that may be."""

    value: float
    spread: float
    source: str


PRIORS: Mapping[str, Prior] = {
    "matmul": Prior(0.92, 0.05, "of the ceiling: a projection of 2,048 rows, profiled"),
    "scaled": Prior(1.0, 0.1, "of the ceiling, which is that of another library's kernel"),
    "paged_read": Prior(0.8, 0.08, "of the ceiling: attention of 256 requests, timed alone"),
    "sharpness": Prior(1.7, 0.3, "matmuls of 64 and 256 rows, timed alone"),
    "matmul us": Prior(1.0, 0.7, "a boundary in a graph, half of which the next launch hides, and the first loads"),
    "many_rows us": Prior(1.5, 1.0, "out in fp8 of 64 rows, timed alone, beside 8: 3.4, of which 1.6 are arithmetic"),
    "attention us": Prior(5.0, 3.0, "one request, timed alone: 6.3 with the write to the cache"),
    "rows us": Prior(1.0, 0.7, "a norm of one row, timed alone: 1.1"),
    "exposed us": Prior(30.0, 20.0, "idle within and between steps, as profiles show it"),
    "exposed_request us": Prior(0.5, 0.5, "the same of 256 requests"),
}


@dataclass(frozen=True)
class Step:
    """A measured step, and the work that it does."""

    measured: Measured
    works: Sequence[Work]

    def seconds(self, pace: Pace) -> float:
        """What the cost model says."""
        return pace.step(self.works, self.measured.batch).seconds

    def error(self, pace: Pace) -> float:
        """By how much that is more than what was measured, as a share."""
        return self.seconds(pace) / self.measured.seconds - 1


def pace_of(values: Mapping[str, float]) -> Pace:
    """An H200 of which operators reach so much."""
    known = Pace.of(load_gpu("h200"))
    compute = {**known.reach.compute, "matmul": values["matmul"]}
    shares = {name: values[name] for name in ("scaled", "paged_read", "sharpness")}
    kernels = {kind: 1e-6 * values[f"{kind} us"] for kind in FITTED_KINDS}
    latencies = replace(
        known.latencies,
        kernels={**known.latencies.kernels, **kernels},
        many_rows=1e-6 * values["many_rows us"],
        exposed=1e-6 * values["exposed us"],
        exposed_request=1e-6 * values["exposed_request us"],
    )
    return replace(known, reach=replace(known.reach, compute=compute, **shares), latencies=latencies)


def fit(steps: Sequence[Step]) -> dict[str, float]:
    """The values under which the steps are predicted best."""
    start = np.array([one.value for one in PRIORS.values()])
    spread = np.array([one.spread for one in PRIORS.values()])

    def residuals(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        pace = pace_of(dict(zip(PRIORS, vector, strict=True)))
        return np.concatenate([[one.error(pace) / NOISE for one in steps], (vector - start) / spread])

    found = least_squares(residuals, start, bounds=(0.0, np.inf), x_scale=spread)
    return dict(zip(PRIORS, map(float, found.x), strict=True))


def worst(steps: Sequence[Step], left_out: Callable[[Step], bool]) -> float:
    """The largest error of the steps that a fit to the others has not seen."""
    pace = pace_of(fit([one for one in steps if not left_out(one)]))
    return max(abs(one.error(pace)) for one in steps if left_out(one))


def read_steps() -> list[Step]:
    """What was measured, with the work of each step."""
    measured = measured_steps()
    models = [estimate_of(one.model, one.quantize).model for one in measured]
    return [Step(one, model.works(one.workload.mean_step())) for one, model in zip(measured, models, strict=True)]


def main() -> None:
    """Print the values, how well they fit, and how well those fit that a fit has not seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    steps, console = read_steps(), Console()
    values = fit(steps)
    table = Table("value", "fitted", "prior", "what the prior is from", box=None)
    for name, prior in PRIORS.items():
        table.add_row(name, f"{values[name]:.3g}", f"{prior.value:g} ± {prior.spread:g}", prior.source)
    console.print(table)
    errors = [one.error(pace_of(values)) for one in steps]
    console.print(f"{len(steps)} steps: {min(errors):+.1%} to {max(errors):+.1%}")
    parts = sorted({one.measured.model for one in steps}) + sorted({one.measured.quantize for one in steps})
    unseen = {name: worst(steps, partial(is_of, name)) for name in parts}
    for name, error in unseen.items():
        console.print(f"without {weights_of(name)}: {error:.1%} at most")
    if options.write:
        REACH.write_text(with_values(REACH.read_text(), values))
        PAGE.write_text(between(PAGE.read_text(), BEGIN, END, markdown(unseen)))


def with_values(source: str, values: Mapping[str, float]) -> str:
    """The text of `reach.py` with its numbers replaced."""
    for name, value in values.items():
        block, text = ("GPU = ", f"{round(value, 3):g}e-6") if name.endswith(" us") else ("REACH = ", f"{value:.3g}")
        field = name.removesuffix(" us")
        number = rf"({re.escape(block)}.*?\b{field}\b(?:\": |=))[\d.e-]+"
        source, count = re.subn(number, rf"\g<1>{text}", source, count=1, flags=re.DOTALL)
        assert count == 1, name
    return source


def markdown(unseen: Mapping[str, float]) -> str:
    """What a fit says of steps that it has not seen, for the documentation."""
    lines = ["| a fit to all but | predicts these within |", "|---|---|"]
    return "\n".join([*lines, *(f"| {weights_of(name)} | {error:.1%} |" for name, error in unseen.items())]) + "\n"


def is_of(name: str, step: Step) -> bool:
    """Whether a step is of a model, or of a format of weights, of that name."""
    return name in (step.measured.model, step.measured.quantize)


if __name__ == "__main__":
    main()
