"""What `config.json` says of a quantized checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from autodeploy.compressed.layout import layout_of
from autodeploy.quantization import Scheme


def quantization_config(quantized: Mapping[str, Scheme], left: Sequence[str]) -> dict[str, Any]:
    """The `quantization_config` of compressed-tensors for the schemes of projections, by the path of their module.

    `left` are the paths, or `re:` and an expression for them, of projections that stay as they are. Where all others
    have one scheme it is given to every linear, and otherwise by name.
    """
    members: dict[Scheme, list[str]] = {}
    for name, scheme in quantized.items():
        members.setdefault(scheme, []).append(name)
    groups = {f"group_{index}": _group(*one, alone=len(members) == 1) for index, one in enumerate(members.items())}
    formats = {group["format"] for group in groups.values()}
    return {
        "quant_method": "compressed-tensors",
        "format": next(iter(formats)) if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": list(left),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def _group(scheme: Scheme, names: Collection[str], *, alone: bool) -> dict[str, Any]:
    layout = layout_of(scheme)
    assert layout is not None, "schemes without a layout are refused before"
    inputs = None if layout.inputs is None else dict(layout.inputs)
    targets = ["Linear"] if alone else list(names)
    return {
        "targets": targets,
        "weights": dict(layout.weights),
        "input_activations": inputs,
        "output_activations": None,
        "format": layout.format,
    }
