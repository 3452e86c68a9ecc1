"""How fast a program is, and what each pass is worth."""

from autodeploy.bench.ablation import Ablation, PassWorth, ablate
from autodeploy.bench.measure import Load, Timing, time_load
from autodeploy.bench.speed import LoadSpeed, measure_speed

__all__ = ["Ablation", "Load", "LoadSpeed", "PassWorth", "Timing", "ablate", "measure_speed", "time_load"]
