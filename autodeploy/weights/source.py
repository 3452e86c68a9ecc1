"""Where tensors come from: memory, a seed, or a checkpoint (in `autodeploy.weights.safetensors_source`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol
from zlib import crc32

import torch
from torch import Tensor, nn
from typing_extensions import override

from autodeploy.errors import CheckpointError, nearest

Ranges = tuple[tuple[int, int] | None, ...]
"""For each dimension the half-open range to read, or None for all of it."""


class TensorSource(Protocol):
    """Named tensors that can be read whole or in ranges."""

    def keys(self) -> list[str]:
        """Every name, sorted."""

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of `key`, without reading it; CheckpointError when there is no such key."""

    def dtype(self, key: str) -> torch.dtype:
        """The dtype of `key`, without reading it; CheckpointError when there is no such key."""

    def read(self, key: str, ranges: Ranges | None = None) -> Tensor:
        """Give `key`, or the part of it inside `ranges`. It may be a view of mapped memory: do not write to it."""

    def where(self, key: str) -> str:
        """What holds `key`, for messages: a file where there is one."""
        return "the checkpoint"


def select(tensor: Tensor, ranges: Ranges | None) -> Tensor:
    """Narrow `tensor` to `ranges`, as a view."""
    if ranges is None:
        return tensor
    return tensor[tuple(slice(None) if r is None else slice(*r) for r in ranges)]


class _Named(TensorSource):
    """Tensors by their names, of which shapes and dtypes are known."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    @override
    def keys(self) -> list[str]:
        return sorted(self._tensors)

    @override
    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._tensor(key).shape)

    @override
    def dtype(self, key: str) -> torch.dtype:
        return self._tensor(key).dtype

    def _tensor(self, key: str) -> Tensor:
        if key not in self._tensors:
            raise unknown(key, self._tensors)
        return self._tensors[key]


class MemorySource(_Named):
    """Tensors that are already in memory."""

    @override
    def read(self, key: str, ranges: Ranges | None = None) -> Tensor:
        return select(self._tensor(key), ranges)


class RandomSource(_Named):
    """Tensors drawn from N(0, 0.02) by a seed and their name; integers and booleans are zero.

    They are drawn on a GPU where there is one, which has numbers of its own: billions of them take a CPU minutes.
    `tensors` gives shapes and dtypes (meta tensors do). A range of a tensor equals that range of the whole.
    """

    def __init__(self, tensors: Mapping[str, Tensor], seed: int = 0) -> None:
        super().__init__({key: tensor.to("meta") for key, tensor in tensors.items()})
        self._seed = seed

    @classmethod
    def of(cls, model: nn.Module, seed: int = 0) -> RandomSource:
        """A checkpoint for `model`, under the model's own names, that holds tied weights once."""
        tied = getattr(model, "all_tied_weights_keys", ())
        return cls({name: tensor for name, tensor in model.state_dict().items() if name not in tied}, seed)

    @override
    def read(self, key: str, ranges: Ranges | None = None) -> Tensor:
        tensor = self._tensor(key)
        if not tensor.dtype.is_floating_point:
            return select(torch.zeros_like(tensor, device="cpu"), ranges)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        generator = torch.Generator(device).manual_seed(self._seed + (crc32(key.encode()) << 32))
        draw = torch.empty(tensor.shape, dtype=_drawable(tensor.dtype), device=device)
        return select(draw.normal_(0.0, 0.02, generator=generator), ranges).to("cpu", tensor.dtype)


def unknown(key: str, keys: Iterable[str]) -> CheckpointError:
    """What to raise for a tensor that a checkpoint does not hold."""
    return CheckpointError(f"the checkpoint holds no tensor {key!r}; {nearest_key(key, keys)}")


def nearest_key(key: str, keys: Iterable[str]) -> str:
    """`nearest`, but quiet about a checkpoint's thousands of keys when none is close."""
    hint = nearest(key, keys)
    return hint if len(hint) < 200 else "no key of the checkpoint is close to it"


def _drawable(dtype: torch.dtype) -> torch.dtype:
    """The dtype to draw in: PyTorch has no normal numbers in 8 bits."""
    return dtype if dtype.itemsize > 1 else torch.float32
