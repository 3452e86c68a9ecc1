"""What modelopt itself makes of a model: its simulation, in which numbers are rounded and computed with as they are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from autodeploy.quality.compare import Predict

Settings = Mapping[str, Any]


def _int4(group: int) -> Settings:
    return {"num_bits": 4, "block_sizes": {-1: group, "type": "static"}}


_NVFP4: Settings = {"num_bits": (2, 1), "block_sizes": {-1: 16, "type": "dynamic", "scale_bits": (4, 3)}}
_FP8: Settings = {"num_bits": (4, 3), "axis": None}


@dataclass(frozen=True)
class Config:
    """Its formats of weights and of inputs, and its algorithm; of some `layers`, or of all.

    The head stays as it is, and so does the embedding, which modelopt would round and may be the same weight.
    """

    weights: Settings
    inputs: Settings | None = None
    algorithm: str = "max"
    layers: tuple[int, ...] = ()

    def entries(self) -> list[Settings]:
        """What modelopt takes: every quantizer is off but these."""
        where = [f"*layers.{layer}.*" for layer in self.layers] or ["*"]
        found: list[Settings] = [{"quantizer_name": "*", "enable": False}]
        for one in where:
            found.append({"quantizer_name": f"{one}weight_quantizer", "cfg": self.weights})
            found += [{"quantizer_name": f"{one}input_quantizer", "cfg": self.inputs}] if self.inputs else []
        return [*found, *({"quantizer_name": name, "enable": False} for name in ("*lm_head*", "*embed_tokens*"))]


CONFIGS: Mapping[str, Config] = {
    "fp8": Config(_FP8, _FP8),
    "smoothquant": Config({"num_bits": 8, "axis": 0}, {"num_bits": 8, "axis": None}, "smoothquant"),
    "int4_g64": Config(_int4(64)),
    "awq_g64": Config(_int4(64), None, "awq_lite"),
    "awq_g32": Config(_int4(32), None, "awq_lite"),
    "gptq_g64": Config(_int4(64), None, "gptq"),
    "gptq_g64 of layers 10-13": Config(_int4(64), None, "gptq", (10, 11, 12, 13)),
    "nvfp4": Config(_NVFP4),
    "nvfp4_awq": Config(_NVFP4, None, "awq_lite"),
}
"""What can be measured, by the names that rows have; its GPTQ of a whole model takes an hour."""


def simulate(folder: Path, name: str, windows: Sequence[Sequence[int]], device: torch.device) -> Predict:
    """The model in `folder`, in float32, as modelopt quantizes it by CONFIGS, calibrated on `windows` of one length."""
    factory: Any = AutoModelForCausalLM

    def calibrate(model: Any) -> None:
        model.model(torch.tensor([*windows], device=device))

    with warnings.catch_warnings(), redirect_stdout(StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        import modelopt.torch.quantization as mtq
        from modelopt.torch.quantization import extensions

        for load in (extensions.get_cuda_ext, extensions.get_cuda_ext_fp8):
            load.extension = None  # it computes the same without them, and they take a compiler and minutes
        model = factory.from_pretrained(folder, dtype=torch.float32).eval().to(device)
        settings = {"quant_cfg": CONFIGS[name].entries(), "algorithm": {"method": CONFIGS[name].algorithm}}
        quantized = mtq.quantize(model, settings, calibrate)
        mtq.fold_weight(quantized)  # or each step would round them anew

    def predict(group: Sequence[Sequence[int]]) -> Tensor:
        with torch.no_grad():
            logits: Tensor = quantized(torch.tensor([*group], device=device)).logits
        return logits[:, :-1].log_softmax(-1)

    return predict
