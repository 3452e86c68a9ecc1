"""A GGUF file's tensors as it stores them, under the names and in the row order of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize as widen
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map

from autodeploy.compressed.files import Unit, write_files
from autodeploy.quantization import Parts, dequantize
from autodeploy.quantization.gguf import BLOCK_BYTES, repack

PLAIN: Mapping[str, torch.dtype] = MappingProxyType(
    {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
)
SAMPLE = 256
"""Columns by which the order of rows is recognized: the longest block, which all others divide."""
TOLERANCE = 1e-2  # transformers' numbers are rounded to bf16; in a wrong order they are as far apart as they can be


def write_packed(file: Path, model: PreTrainedModel, folder: Path) -> None:
    """Write `model`, which transformers has read from `file`, with its weights in the bits that they have there.

    Weights that the file holds in kinds we have no operator for, and what transformers makes of several or of their
    numbers, are taken from the model.
    """
    model.config.quantization_config = {"quant_method": "gguf"}
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
    write_files(folder, list(_units(file, model)))


def _units(file: Path, model: PreTrainedModel) -> Iterator[Unit]:
    names: dict[str, str] = get_gguf_hf_weights_map(model, TensorProcessor())  # type: ignore[no-untyped-call]
    stored = {names[one.name]: one for one in GGUFReader(file).tensors if one.name in names}
    tied: Mapping[str, str] = model.all_tied_weights_keys
    orders = _orders(model.config.get_text_config())
    for name, tensor in model.state_dict().items():
        if name not in tied:
            yield _unit(name, tensor, stored.get(name), orders)


def _unit(name: str, tensor: Tensor, found: ReaderTensor | None, orders: list[tuple[int, int]]) -> Unit:
    kind = "" if found is None else found.tensor_type.name
    if found is not None and (kind in BLOCK_BYTES or kind in PLAIN) and tuple(found.shape[::-1]) == tuple(tensor.shape):
        order = _order_of(found, tensor, orders)
        if order is not None:
            return _plain(name, found, order) if kind in PLAIN else _packed(name, found, order)
    return Unit({name: tensor.to("meta")}, lambda: {name: tensor})


def _packed(name: str, found: ReaderTensor, order: Tensor) -> Unit:
    path, kind = name.removesuffix(".weight"), found.tensor_type.name

    def named(parts: Parts) -> dict[str, Tensor]:
        held = {"codes": parts.values, "scale": parts.scale, "zero": parts.zero}
        return {f"{path}.{part}": one for part, one in held.items() if one is not None}

    first = named(repack(_bytes(found, order[:1]), kind))
    shapes = {
        key: torch.empty(len(order), *one.shape[1:], dtype=one.dtype, device="meta") for key, one in first.items()
    }
    return Unit(shapes, lambda: named(repack(_bytes(found, order), kind)))


def _plain(name: str, found: ReaderTensor, order: Tensor) -> Unit:
    dtype = PLAIN[found.tensor_type.name]
    shape = torch.empty(tuple(found.shape[::-1].tolist()), dtype=dtype, device="meta")
    return Unit({name: shape}, lambda: {name: torch.tensor(widen(found.data, found.tensor_type))[order].to(dtype)})


def _order_of(found: ReaderTensor, tensor: Tensor, orders: list[tuple[int, int]]) -> Tensor | None:
    """The order in which the file's rows are those of `tensor`; None where they are not its rows."""
    rows = len(tensor)
    numbers = _sample(found)
    wanted = tensor.reshape(rows, -1)[:, : numbers.shape[1]].float()
    plain = torch.arange(rows)
    turned = [
        plain.reshape(*order, 2).transpose(1, 2).reshape(-1) for order in orders if order[0] * order[1] * 2 == rows
    ]
    fits = (one for one in (plain, *turned) if (numbers[one] - wanted).norm() <= TOLERANCE * wanted.norm())
    return next(fits, None)


def _orders(config: Any) -> list[tuple[int, int]]:
    """Heads, and half the width of each: where GGUF rotates neighbours and transformers the halves of a head."""
    heads = getattr(config, "num_attention_heads", 1)
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return [(count, width // 2) for count in (heads, getattr(config, "num_key_value_heads", None) or heads)]


def _sample(found: ReaderTensor) -> Tensor:
    """The first columns of all rows, in float32."""
    kind = found.tensor_type.name
    if kind in PLAIN:
        whole = torch.tensor(widen(found.data, found.tensor_type))
        return whole.reshape(len(whole), -1)[:, :SAMPLE]
    each = BLOCK_BYTES[kind]
    data = torch.tensor(found.data[:, :each])
    parts = repack(data, kind)
    format = "int8" if parts.values.dtype is torch.int8 else "int4"
    return dequantize(parts.values, parts.scale, parts.zero, None, format)


def _bytes(found: ReaderTensor, order: Tensor) -> Tensor:
    return torch.from_numpy(found.data[order.numpy()])
