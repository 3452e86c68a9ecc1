"""Planning a model for a device without its weights: what it is, what fits, how fast it will be, and what follows."""

from autodeploy.aims import Aims
from autodeploy.planning.estimate import Estimate, deciding_passes, estimate_model
from autodeploy.planning.facts import Facts
from autodeploy.planning.formats import Fastest, fastest_scheme, refuse_recipe, refuse_scheme
from autodeploy.planning.kept import Kept
from autodeploy.planning.outlook import Outlook, look_ahead, look_at_weights
from autodeploy.planning.settings import plan_batch, plan_steps, plan_tuning

__all__ = [
    "Aims",
    "Estimate",
    "Facts",
    "Fastest",
    "Kept",
    "Outlook",
    "deciding_passes",
    "estimate_model",
    "fastest_scheme",
    "look_ahead",
    "look_at_weights",
    "plan_batch",
    "plan_steps",
    "plan_tuning",
    "refuse_recipe",
    "refuse_scheme",
]
