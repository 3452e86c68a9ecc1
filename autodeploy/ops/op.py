"""What a canonical operator is, and how it becomes `torch.ops.autodeploy.<name>`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

LIBRARY = torch.library.Library("autodeploy", "FRAGMENT")  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class CanonicalOp:
    """An operator of the graph's vocabulary.

    `schema` is in PyTorch's schema language and names the operator; `reference` computes it in plain PyTorch;
    `fake` gives the shape and dtype of the result without computing it.
    """

    schema: str
    reference: Callable[..., Any]
    fake: Callable[..., Any]

    @property
    def name(self) -> str:
        """The operator's name, without its namespace."""
        return self.schema.partition("(")[0]

    @property
    def overload(self) -> torch._ops.OpOverload:
        """The callable that graph nodes hold: `torch.ops.autodeploy.<name>.default`."""
        overload: torch._ops.OpOverload = getattr(torch.ops.autodeploy, self.name).default
        return overload


def define(op: CanonicalOp) -> None:
    """Register `op` with PyTorch's dispatcher, served by its reference on every device."""
    LIBRARY.define(op.schema)  # type: ignore[no-untyped-call]
    LIBRARY.impl(op.name, op.reference, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"autodeploy::{op.name}", op.fake, lib=LIBRARY)
