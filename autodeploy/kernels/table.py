"""Which backend serves which canonical operator: the one place that knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from autodeploy.ops import CanonicalOp

ANY_DEVICE = ("cpu", "cuda")
ANY_DTYPE = (torch.float32, torch.bfloat16, torch.float16)


def _serves_all(*_: object, **__: object) -> str | None:
    return None


@dataclass(frozen=True)
class Tunable:
    """The ways in which a kernel of a projection or of attention can cut its work.

    `configs(rows, n, k, dtype)` are those worth timing for `[rows, k]` by a weight `[n, k]`, the best guess first; none
    when no such number of rows is served. For a quantized weight it takes its `Storage` as well. For attention it is
    `configs(rows, attention)`, of an `Attention`. `bind(config)` computes the operator in one of them, and
    `config_type` makes one of the JSON data of its fields.
    """

    configs: Callable[..., tuple[Any, ...]]
    bind: Callable[[Any], Callable[..., Any]]
    config_type: type


@dataclass(frozen=True)
class Kernel:
    """One backend's implementation of a canonical operator.

    `run` takes the operator's arguments. `declines` takes them too, with tensors that have a shape and a dtype but no
    data, and gives the reason why this kernel cannot serve them, or None. `dtypes` are those of the operator's result,
    or of its first. Among kernels that can serve a node, the highest `priority` does. One that `waits` reads values on
    the host, so that no CUDA graph can hold it. `run_over` computes the same for calls whose last operand nothing reads
    again: it may leave the result in that operand's memory.
    """

    op: CanonicalOp
    backend: str
    run: Callable[..., Any]
    devices: tuple[str, ...] = ANY_DEVICE
    dtypes: tuple[torch.dtype, ...] = ANY_DTYPE
    declines: Callable[..., str | None] = field(default=_serves_all)
    priority: int = 0
    tunable: Tunable | None = None
    waits: bool = False
    run_over: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        """Such as `triton.rms_norm`."""
        return f"{self.backend}.{self.op.name}"


class KernelTable:
    """The kernels at hand, in the order in which they are preferred. Immutable: adding gives a new table.

    `notes` say what is not at hand, and why.
    """

    def __init__(self, kernels: Iterable[Kernel], notes: Iterable[str] = ()) -> None:
        self._kernels = tuple(sorted(kernels, key=lambda kernel: -kernel.priority))
        self.notes = tuple(notes)

    def __iter__(self) -> Iterator[Kernel]:
        return iter(self._kernels)

    def __add__(self, kernels: Iterable[Kernel]) -> KernelTable:
        """This table and more kernels, such as a plugin's."""
        return KernelTable((*self._kernels, *kernels), self.notes)

    def overwriting(self) -> KernelTable:
        """The kernels as they serve calls whose last operand nothing reads again."""
        return KernelTable((replace(kernel, run=kernel.run_over or kernel.run) for kernel in self), self.notes)

    def candidates(self, op: torch._ops.OpOverload, device: str, dtype: torch.dtype) -> tuple[Kernel, ...]:
        """The kernels for `op` on a device ("cpu", "cuda") and a dtype, best first. The torch reference is the last."""
        return tuple(
            kernel
            for kernel in self._kernels
            if kernel.op.overload is op and device in kernel.devices and dtype in kernel.dtypes
        )

    def able(self, node: Node, device: str) -> tuple[Kernel, ...]:
        """The candidates that do not decline the call `node`, best first."""
        assert isinstance(node.target, torch._ops.OpOverload), f"{node.name} calls no canonical operator"
        args = map_arg(node.args, lambda argument: argument.meta["val"])
        kwargs = map_arg(node.kwargs, lambda argument: argument.meta["val"])
        result = node.meta["val"]
        dtype = result[0].dtype if isinstance(result, (tuple, list)) else result.dtype
        candidates = self.candidates(node.target, device, dtype)
        return tuple(kernel for kernel in candidates if kernel.declines(*args, **kwargs) is None)

    def find(self, op: torch._ops.OpOverload, backend: str) -> Kernel | None:
        """The kernel that `backend` has for `op`; None where that backend is not available here."""
        return next(
            (kernel for kernel in self._kernels if kernel.op.overload is op and kernel.backend == backend), None
        )
