"""Planning a model for a device without its weights: what it is, what fits, how fast it will be, and what follows."""

from autodeploy.aims import Aims
from autodeploy.planning.estimate import Estimate, estimate_model
from autodeploy.planning.formats import refuse_scheme
from autodeploy.planning.outlook import Outlook, look_ahead, look_at_weights
from autodeploy.planning.settings import plan_settings

__all__ = [
    "Aims",
    "Estimate",
    "Outlook",
    "estimate_model",
    "look_ahead",
    "look_at_weights",
    "plan_settings",
    "refuse_scheme",
]
