"""Weights as a plan: lazy expressions over checkpoint tensors, read once the graph is final.

`plan_weights` is in `autodeploy.weights.checkpoint`, since it takes transformers, which serving does without.
"""

from autodeploy.weights.arithmetic import InverseRoot, Subtract, scale_rows
from autodeploy.weights.dequantized import Dequantized, stored, why_apart
from autodeploy.weights.expression import Add, Box, Cast, Constant, Expression, Multiply, Stored
from autodeploy.weights.layout import Concat, Expand, Permute, Reshape, Slice, Stack, chunk, transpose
from autodeploy.weights.plan import WeightPlan, used_by
from autodeploy.weights.quantized import PartReader, Quantized
from autodeploy.weights.safetensors_source import SafetensorsSource
from autodeploy.weights.source import MemorySource, RandomSource, Ranges, TensorSource

__all__ = [
    "Add",
    "Box",
    "Cast",
    "Concat",
    "Constant",
    "Dequantized",
    "Expand",
    "Expression",
    "InverseRoot",
    "MemorySource",
    "Multiply",
    "PartReader",
    "Permute",
    "Quantized",
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
    "scale_rows",
    "stored",
    "transpose",
    "used_by",
    "why_apart",
]
