"""Numbers in fewer bits: their formats, the schemes that pick one for each layer, and the rules that say where."""

from autodeploy.quantization.formats import dequantize
from autodeploy.quantization.nibbles import E2M1, pack_nibbles, unpack_nibbles

__all__ = ["E2M1", "dequantize", "pack_nibbles", "unpack_nibbles"]
