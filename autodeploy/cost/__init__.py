"""What steps cost, how long they take on a device, and what fits on it: one model for plans, reports and benchmarks.

`CostModel` counts in a graph (`autodeploy.cost.model`), `Tally` knows without one; `autodeploy.cost.sample` picks the
layers that are traced, and imports transformers.
"""

from autodeploy.cost.costs import Costs
from autodeploy.cost.memory import Fit, fit_memory
from autodeploy.cost.model import CostModel
from autodeploy.cost.pace import Bound, Pace, Step, Timed
from autodeploy.cost.step import Cost, StepShape
from autodeploy.cost.tally import Tally
from autodeploy.cost.work import Kind, Work, attends

__all__ = [
    "Bound",
    "Cost",
    "CostModel",
    "Costs",
    "Fit",
    "Kind",
    "Pace",
    "Step",
    "StepShape",
    "Tally",
    "Timed",
    "Work",
    "attends",
    "fit_memory",
]
