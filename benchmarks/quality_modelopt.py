"""What modelopt itself makes of a model: its simulation, in which numbers are rounded and computed with as they are."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
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
CONFIGS: Mapping[str, tuple[Settings, Settings | None, str]] = {
    "fp8": (_FP8, _FP8, "max"),
    "smoothquant": ({"num_bits": 8, "axis": 0}, {"num_bits": 8, "axis": None}, "smoothquant"),
    "int4_g64": (_int4(64), None, "max"),
    "awq_g64": (_int4(64), None, "awq_lite"),
    "awq_g32": (_int4(32), None, "awq_lite"),
    "gptq_g64": (_int4(64), None, "gptq"),
    "nvfp4": (_NVFP4, None, "max"),
    "nvfp4 inputs too": (_NVFP4, _NVFP4, "max"),
    "nvfp4_awq": (_NVFP4, None, "awq_lite"),
}
"""Its formats of weights and of inputs, and its algorithm; the head stays as it is."""


def simulate(folder: Path, name: str, windows: Sequence[Sequence[int]], device: torch.device) -> Predict:
    """The model in `folder`, in float32, quantized by modelopt as CONFIGS has it and calibrated on `windows`."""
    weights, inputs, algorithm = CONFIGS[name]
    entries: list[Settings] = [{"quantizer_name": "*", "enable": False}]
    entries += [{"quantizer_name": "*weight_quantizer", "cfg": weights}]
    entries += [{"quantizer_name": "*input_quantizer", "cfg": inputs}] if inputs else []
    entries += [{"quantizer_name": "*lm_head*", "enable": False}]
    factory: Any = AutoModelForCausalLM

    def calibrate(model: Any) -> None:
        for window in windows:
            model.model(torch.tensor([window], device=device))

    with warnings.catch_warnings(), redirect_stdout(StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        import modelopt.torch.quantization as mtq

        model = factory.from_pretrained(folder, dtype=torch.float32).eval().to(device)
        settings = {"quant_cfg": entries, "algorithm": {"method": algorithm}}
        quantized = mtq.quantize(model, settings, calibrate)

    def predict(group: Sequence[Sequence[int]]) -> Tensor:
        with torch.no_grad():
            logits: Tensor = quantized(torch.tensor([*group], device=device)).logits
        return logits[:, :-1].log_softmax(-1)

    return predict
