"""What steps cost, how long they take on a device, and what fits on it: one model for plans, reports and benchmarks."""

from autodeploy.cost.model import CostModel
from autodeploy.cost.step import Cost, StepShape
from autodeploy.cost.work import Work

__all__ = ["Cost", "CostModel", "StepShape", "Work"]
