"""The only door to nvidia-modelopt, which comes with the extra `[quantize]`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from autodeploy.errors import UnsupportedError
from autodeploy.quantization import Scheme
from autodeploy.quantization.option import Technique

PACKAGE = "nvidia-modelopt"
MAX_ROWS = 1024
"""The most rows of inputs that AWQ's search takes, evenly: each of its steps computes with all of them."""


def installed_version() -> str:
    """The version of modelopt; UnsupportedError, with the command that installs it, where there is none."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError as error:
        raise UnsupportedError(
            f"SmoothQuant and AWQ take {PACKAGE}, which is not installed: pip install 'fx-autodeploy[quantize]'"
        ) from error


def refuse(scheme: Scheme, device: torch.device) -> None:
    """Raise UnsupportedError where modelopt cannot calibrate `scheme` on `device`."""
    if scheme.weights == "nvfp4" and device.type != "cuda":
        raise UnsupportedError(
            "modelopt calibrates nvfp4 on a CUDA device only; without one take --quantize nvfp4, "
            "which rounds to the nearest, or awq_g32"
        )


def input_factors(weight: Tensor, inputs: Sequence[Tensor], scheme: Scheme, technique: Technique) -> Tensor:
    """What the smoothing of `technique` multiplies inputs by, `[K]` in float32, positive.

    `weight [N, K]` is of all projections of `inputs [..., K]`, one below the other; its columns are to be divided by
    the factors. UnsupportedError without modelopt.
    """
    rows = torch.cat([one.reshape(-1, one.shape[-1]) for one in inputs]).float()
    if technique.smoothing == "smoothquant":
        rows = rows.abs().amax(0, keepdim=True)  # all that it looks at
    else:
        rows = rows[:: -(-len(rows) // MAX_ROWS)]
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.float().clone(), requires_grad=False)  # it is smoothed in place
    calibrated = _quantized(linear, _settings(scheme, technique), lambda model: model(rows))
    factors: Tensor = calibrated.input_quantizer.pre_quant_scale.float().reshape(-1)
    return factors.to(weight.device)


def _quantized(linear: nn.Linear, settings: Mapping[str, Any], forward: Callable[[nn.Module], Tensor]) -> Any:
    """The projection with modelopt's quantizers, calibrated by what `forward` runs through it."""
    installed_version()
    with _quietly():
        import modelopt.torch.quantization as mtq

        model = mtq.quantize(nn.Sequential(linear), dict(settings), forward)
    return model[0]


@contextmanager
def _quietly() -> Iterator[None]:
    """Without its prints, which would end up in our output, and its warnings of a newer transformers."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        yield


def _settings(scheme: Scheme, technique: Technique) -> dict[str, Any]:
    """modelopt's configuration of one linear: every quantizer off but those of the scheme."""
    entries: list[dict[str, Any]] = [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "cfg": _weights(scheme)},
    ]
    if scheme.activations != "none":
        entries.append({"quantizer_name": "*input_quantizer", "cfg": {"num_bits": 8, "axis": None}})
    return {"quant_cfg": entries, "algorithm": _algorithm(technique)}


def _algorithm(technique: Technique) -> dict[str, Any]:
    if technique.smoothing == "smoothquant":
        return {"method": "smoothquant", "alpha": technique.alpha}
    return {"method": "awq_lite", "alpha_step": 0.1}


def _weights(scheme: Scheme) -> dict[str, Any]:
    if scheme.weights == "int8":
        return {"num_bits": 8, "axis": 0}
    if scheme.weights == "nvfp4":
        return {"num_bits": (2, 1), "block_sizes": {-1: scheme.group, "type": "dynamic", "scale_bits": (4, 3)}}
    return {"num_bits": 4, "block_sizes": {-1: scheme.group, "type": "static"}}
