"""How fast a program is, where its time goes, and what each pass is worth."""

from autodeploy.bench.ablation import Ablation, PassWorth, ablate
from autodeploy.bench.figure import Figure
from autodeploy.bench.measure import Load, Timing, time_load
from autodeploy.bench.parse import parse_workloads
from autodeploy.bench.report import Comparison, Report, compare, read_figures
from autodeploy.bench.session import Session
from autodeploy.bench.speed import LoadSpeed, measure_speed

__all__ = [
    "Ablation",
    "Comparison",
    "Figure",
    "Load",
    "LoadSpeed",
    "PassWorth",
    "Report",
    "Session",
    "Timing",
    "ablate",
    "compare",
    "measure_speed",
    "parse_workloads",
    "read_figures",
    "time_load",
]
