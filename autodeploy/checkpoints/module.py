"""The tensors that a checkpoint holds for one module, and what is said of one that is missing or wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from autodeploy.errors import CheckpointError, UnsupportedError
from autodeploy.weights.expression import Cast, Constant, Expression, Stored
from autodeploy.weights.source import TensorSource


class Pool:
    """Small tensors that are read at once. Equal ones are one constant, so that what shares them can be joined."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], Constant] = {}

    def constant(self, name: str, tensor: Tensor) -> Constant:
        """A weight of these values, which is called `name` unless it is there already."""
        values = tensor.contiguous().clone()
        content = values.reshape(-1).view(torch.uint8).numpy().tobytes()
        return self._found.setdefault((values.dtype, values.shape, content), Constant(name, values))


@dataclass(frozen=True)
class Module:
    """The tensors whose keys are `path`, a dot, and one of `names`."""

    path: str
    names: frozenset[str]
    source: TensorSource
    pool: Pool = field(repr=False)

    def key(self, name: str) -> str:
        """The checkpoint's key of one of its tensors."""
        return f"{self.path}.{name}" if self.path else name

    def find(self, name: str) -> Stored | None:
        """A tensor, or None where the checkpoint does not hold it."""
        return Stored.of(self.key(name), self.source) if name in self.names else None

    def stored(self, name: str) -> Stored:
        """A tensor; CheckpointError where the checkpoint does not hold it."""
        found = self.find(name)
        if found is None:
            neighbour = self.key(min(self.names))
            raise CheckpointError(
                f"{self.source.where(neighbour)} holds {neighbour} and lacks {self.key(name)}, without which"
                " the numbers cannot be read"
            )
        return found

    def scale(self, name: str) -> Expression:
        """A tensor in float32."""
        found = self.stored(name)
        return found if found.dtype is torch.float32 else Cast(found, torch.float32)

    def values(self, name: str) -> Tensor:
        """The numbers of a small tensor, read at once; CheckpointError where the checkpoint does not hold it."""
        return self.source.read(self.stored(name).key)

    def number(self, name: str, *, inverse: bool = False) -> Constant:
        """A tensor of one number as float32 `[]`, or one over it; CheckpointError where it holds more."""
        values = self.values(name).float()
        if values.numel() != 1:
            raise self.damaged(name, f"it has {values.numel()} numbers and should have one")
        whole = values.reshape(())
        return self.pool.constant(self.key(name), whole.reciprocal() if inverse else whole)

    def expect(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Stored:
        """A tensor that must be of a shape, and of a dtype; CheckpointError where it is not."""
        found = self.stored(name)
        if found.shape != shape:
            raise self.damaged(name, f"its shape is {list(found.shape)} and should be {list(shape)}")
        if dtype is not None and found.dtype is not dtype:
            raise self.damaged(name, f"it is {text(found.dtype)} and should be {text(dtype)}")
        return found

    def damaged(self, name: str, why: str) -> CheckpointError:
        """The error for a tensor that cannot be what it claims."""
        return CheckpointError(f"{self.key(name)} in {self.source.where(self.key(name))}: {why}")

    def unsupported(self, name: str, why: str) -> UnsupportedError:
        """The error for a tensor that is sound, but of a kind we have no operator for."""
        return UnsupportedError(f"{self.key(name)} in {self.source.where(self.key(name))}: {why}")


def modules_of(source: TensorSource) -> Iterator[Module]:
    """The modules of a checkpoint."""
    names: dict[str, set[str]] = {}
    for key in source.keys():  # noqa: SIM118 (it is not a mapping)
        path, _, name = key.rpartition(".")
        names.setdefault(path, set()).add(name)
    pool = Pool()
    for path, held in names.items():
        yield Module(path, frozenset(held), source, pool)


def text(dtype: torch.dtype) -> str:
    """A dtype as people write it."""
    return str(dtype).removeprefix("torch.")
