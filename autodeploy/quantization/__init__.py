"""Numbers in fewer bits: their formats, the schemes that pick one for each layer, and the rules that say where."""

from autodeploy.quantization.formats import FORMATS, dequantize
from autodeploy.quantization.nibbles import E2M1, pack_nibbles, unpack_nibbles
from autodeploy.quantization.rounding import Parts, round_weight
from autodeploy.quantization.rules import Precision, Projection, Rule, decide
from autodeploy.quantization.scheme import SCHEMES, Scheme, find_scheme, name_of

__all__ = [
    "E2M1",
    "FORMATS",
    "SCHEMES",
    "Parts",
    "Precision",
    "Projection",
    "Rule",
    "Scheme",
    "decide",
    "dequantize",
    "find_scheme",
    "name_of",
    "pack_nibbles",
    "round_weight",
    "unpack_nibbles",
]
