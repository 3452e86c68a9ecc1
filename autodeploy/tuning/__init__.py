"""Measuring which kernel is fastest for each shape of a model, and remembering it."""

from autodeploy.tuning.choices import Choice, Choices
from autodeploy.tuning.matmul import MATMULS, Matmul, matmuls_of
from autodeploy.tuning.session import Tuning, tune
from autodeploy.tuning.store import Conditions, load_choices, save_choices
from autodeploy.tuning.tune import ROWS, tune_matmuls

__all__ = [
    "MATMULS",
    "ROWS",
    "Choice",
    "Choices",
    "Conditions",
    "Matmul",
    "Tuning",
    "load_choices",
    "matmuls_of",
    "save_choices",
    "tune",
    "tune_matmuls",
]
