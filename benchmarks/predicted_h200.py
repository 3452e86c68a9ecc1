"""The cost model against measured decode steps: `python benchmarks/predicted_h200.py`.

Reads `h200_decode_*.json`, reports of `autodeploy bench --run decode:N --save` or of `benchmarks/decode_h200.py`,
predicts the same steps from the models' configs and the data of the H200 alone, and writes `predicted_h200.json` and
the table of `docs/explain.md`.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from autodeploy.bench.workloads import Decode
from autodeploy.job import Job
from autodeploy.planning import Estimate

RESULTS = Path(__file__).parent / "results"
CONFIGS = Path(__file__).parent / "configs"
PAGE = Path(__file__).parents[1] / "docs/explain.md"
BEGIN, END = "<!-- the table of benchmarks/predicted_h200.py -->\n", "<!-- its end -->\n"


@dataclass(frozen=True, order=True)
class Measured:
    """A decode step of `batch` requests that was measured. `quantize` is "none" for weights as they are."""

    model: str
    quantize: str
    batch: int
    seconds: float
    report: str

    @property
    def workload(self) -> Decode:
        """What it was a step of."""
        return Decode(self.batch)


def main() -> None:
    """Print the table, and keep it."""
    rows = compare(measured_steps())
    show(rows)
    (RESULTS / "predicted_h200.json").write_text(json.dumps({"gpu": "h200", "rows": rows}, indent=1) + "\n")
    PAGE.write_text(between(PAGE.read_text(), BEGIN, END, markdown(rows)))


def between(text: str, begin: str, end: str, table: str) -> str:
    """A text with what stands between two marks replaced."""
    start = text.index(begin) + len(begin)
    return text[:start] + table + text[text.index(end, start) :]


def measured_steps() -> list[Measured]:
    """Every step of the reports, by model and size."""
    return sorted(step for file in RESULTS.glob("h200_decode_*.json") for step in read(file))


def read(file: Path) -> list[Measured]:
    """The decode steps of one report."""
    report = json.loads(file.read_text())
    model, quantize = Path(report["model"]).name, option(report["command"], "--quantize", "none")
    runs = {int(one["run"].removeprefix("decode:")): one["value"] for one in report["figures"]}
    return [Measured(model, quantize, batch, batch / rate, file.name) for batch, rate in runs.items()]


def compare(steps: list[Measured]) -> list[dict[str, Any]]:
    """A row for each step."""
    rows = []
    for one in steps:
        predicted = estimate_of(one.model, one.quantize).step(one.workload.mean_step()).seconds
        row = {
            "model": one.model,
            "quantize": one.quantize,
            "batch": one.batch,
            "predicted_ms": round(1e3 * predicted, 3),
            "measured_ms": round(1e3 * one.seconds, 3),
            "error": round(predicted / one.seconds - 1, 4),
            "report": one.report,
        }
        rows.append(row)
    return rows


@cache
def estimate_of(model: str, quantize: str) -> Estimate:
    """What is known of a model before it is built."""
    options: dict[str, Any] = {} if quantize == "none" else {"quantize": quantize}
    job = Job(
        str(CONFIGS / model),
        gpu="h200",
        dtype="bf16",
        recipe="auto",
        workload="balanced",
        values={},
        weights=False,
        **options,
    )
    assert isinstance(job.estimate, Estimate), job.estimate
    return job.estimate


def option(command: str, name: str, default: str) -> str:
    """The value of an option in a command line."""
    words = shlex.split(command)
    return words[words.index(name) + 1] if name in words else default


def show(rows: list[dict[str, Any]]) -> None:
    """The table on the terminal."""
    columns = list(rows[0]) if rows else []
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*(f"{row[key]:+.1%}" if key == "error" else str(row[key]) for key in columns))
    Console().print(table)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The same for the documentation."""
    lines = ["| model | weights | requests | predicted, ms | measured, ms | off by |", "|---|---|---|---|---|---|"]
    for row in rows:
        figures = f"{row['predicted_ms']:.2f} | {row['measured_ms']:.2f} | {row['error']:+.1%}"
        lines.append(f"| {row['model']} | {weights_of(row['quantize'])} | {row['batch']} | {figures} |")
    return "\n".join(lines) + "\n"


def weights_of(quantize: str) -> str:
    """A format of weights as one reads it: those that are not quantized have 16 bits."""
    return "bf16" if quantize == "none" else quantize


if __name__ == "__main__":
    main()
