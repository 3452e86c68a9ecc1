"""The cost model against measured decode steps: `python benchmarks/predicted_h200.py [REPORT.json ...]`.

Reads reports of `autodeploy bench --run decode:N --save` or of `benchmarks/decode_h200.py`, by default `h200_bf16.json`
and `h200_decode_*.json`, predicts the same steps from the models' configs and the data of the H200 alone, and writes
`predicted_h200.json` and the table of `docs/explain.md`.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
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


def main(files: list[Path]) -> None:
    """Print the table, and keep it."""
    rows = [row for file in files for row in compare(file)]
    show(rows)
    (RESULTS / "predicted_h200.json").write_text(json.dumps({"gpu": "h200", "rows": rows}, indent=1) + "\n")
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN)] + BEGIN + markdown(rows) + text[text.index(END) :])


def compare(file: Path) -> Iterator[dict[str, Any]]:
    """A row for each batch size that a report has decoded."""
    report = json.loads(file.read_text())
    figures = [one for one in report.get("figures", ()) if one["run"].startswith("decode:")]
    if not figures:
        return
    quantize = option(report["command"], "--quantize", "none")
    estimate = estimate_of(Path(report["model"]).name, quantize)
    for one in figures:
        workload = Decode(int(one["run"].removeprefix("decode:")))
        predicted = 1e3 * estimate.step(workload.mean_step()).seconds
        measured = 1e3 * workload.batch_size / one["value"]
        yield {
            "model": Path(report["model"]).name,
            "quantize": quantize,
            "batch": workload.batch_size,
            "predicted_ms": round(predicted, 3),
            "measured_ms": round(measured, 3),
            "error": round(predicted / measured - 1, 4),
            "report": file.name,
        }


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
        weights = "bf16" if row["quantize"] == "none" else row["quantize"]
        figures = f"{row['predicted_ms']:.2f} | {row['measured_ms']:.2f} | {row['error']:+.1%}"
        lines.append(f"| {row['model']} | {weights} | {row['batch']} | {figures} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(
        [Path(name) for name in sys.argv[1:]]
        or [RESULTS / "h200_bf16.json", *sorted(RESULTS.glob("h200_decode_*.json"))]
    )
