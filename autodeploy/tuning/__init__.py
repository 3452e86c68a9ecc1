"""Measuring which kernel is fastest for each shape of a model, and remembering it."""

from autodeploy.kernels.attention import Attention
from autodeploy.tuning.attention import ATTENTIONS, attentions_of
from autodeploy.tuning.choices import Choice, Choices, Site
from autodeploy.tuning.matmul import MATMULS, Matmul, matmuls_of
from autodeploy.tuning.session import Tuning, sites_of, tune
from autodeploy.tuning.store import Conditions, load_choices, save_choices
from autodeploy.tuning.tune import ROWS, tune_matmuls
from autodeploy.tuning.tune_attention import tune_attentions

__all__ = [
    "ATTENTIONS",
    "MATMULS",
    "ROWS",
    "Attention",
    "Choice",
    "Choices",
    "Conditions",
    "Matmul",
    "Site",
    "Tuning",
    "attentions_of",
    "load_choices",
    "matmuls_of",
    "save_choices",
    "sites_of",
    "tune",
    "tune_attentions",
    "tune_matmuls",
]
