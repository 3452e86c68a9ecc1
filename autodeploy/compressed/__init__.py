"""Checkpoints of quantized models as compressed-tensors lays them out, which other servers load."""
