"""How fast a program is and where its time goes; what each pass is worth is in `ablation`, which can build programs."""

from autodeploy.bench.figure import Figure
from autodeploy.bench.measure import Load, Timing, time_load
from autodeploy.bench.parse import parse_workloads
from autodeploy.bench.report import Comparison, Report, compare, read_figures
from autodeploy.bench.session import Session
from autodeploy.bench.speed import LoadSpeed, measure_speed

__all__ = [
    "Comparison",
    "Figure",
    "Load",
    "LoadSpeed",
    "Report",
    "Session",
    "Timing",
    "compare",
    "measure_speed",
    "parse_workloads",
    "read_figures",
    "time_load",
]
