"""Measuring which kernel is fastest for each shape of a model, and remembering it."""

from autodeploy.tuning.choices import Choice, Choices, Matmul, matmuls_of
from autodeploy.tuning.store import load_choices, save_choices
from autodeploy.tuning.tune import ROWS, tune_matmuls

__all__ = ["ROWS", "Choice", "Choices", "Matmul", "load_choices", "matmuls_of", "save_choices", "tune_matmuls"]
