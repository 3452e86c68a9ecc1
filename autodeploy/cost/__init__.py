"""What steps cost, how long they take on a device, and what fits on it: one model for plans, reports and benchmarks."""

from autodeploy.cost.memory import Fit, fit_memory
from autodeploy.cost.model import CostModel
from autodeploy.cost.pace import Bound, Pace, Step, Timed
from autodeploy.cost.sample import Counted, Sample, count_model, sample_layers
from autodeploy.cost.step import Cost, StepShape
from autodeploy.cost.work import Kind, Work, attends

__all__ = [
    "Bound",
    "Cost",
    "CostModel",
    "Counted",
    "Fit",
    "Kind",
    "Pace",
    "Sample",
    "Step",
    "StepShape",
    "Timed",
    "Work",
    "attends",
    "count_model",
    "fit_memory",
    "sample_layers",
]
