"""Weights as a plan: lazy expressions over checkpoint tensors, read once the graph is final."""

from autodeploy.weights.arithmetic import InverseRoot, Subtract, scale_rows
from autodeploy.weights.checkpoint import plan_weights
from autodeploy.weights.expression import Add, Box, Cast, Constant, Expression, Multiply, Stored
from autodeploy.weights.layout import Concat, Permute, Reshape, Slice, Stack, chunk, transpose
from autodeploy.weights.plan import WeightPlan, used_by
from autodeploy.weights.source import MemorySource, RandomSource, Ranges, SafetensorsSource, TensorSource

__all__ = [
    "Add",
    "Box",
    "Cast",
    "Concat",
    "Constant",
    "Expression",
    "InverseRoot",
    "MemorySource",
    "Multiply",
    "Permute",
    "RandomSource",
    "Ranges",
    "Reshape",
    "SafetensorsSource",
    "Slice",
    "Stack",
    "Stored",
    "Subtract",
    "TensorSource",
    "WeightPlan",
    "chunk",
    "plan_weights",
    "scale_rows",
    "transpose",
    "used_by",
]
