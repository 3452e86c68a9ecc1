"""What a canonical operator is, and how it becomes `torch.ops.<namespace>.<name>`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch

NAMESPACE = "autodeploy"


@dataclass(frozen=True)
class CanonicalOp:
    """An operator of the graph's vocabulary.

    `schema` is in PyTorch's schema language and names the operator; `reference` computes it in plain PyTorch;
    `fake` gives the shape and dtype of the result without computing it. A plugin's schema begins with the plugin's name
    as its namespace, as in `mine::scale(Tensor x) -> Tensor`; one without a namespace is autodeploy's own.
    `reference_waits` says that the reference reads values on the host, so that no CUDA graph can hold it.
    """

    schema: str
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    reference_waits: bool = False

    @property
    def namespace(self) -> str:
        """Where it lives: `autodeploy`, or the name of a plugin."""
        namespace, separator, _ = self.schema.partition("(")[0].rpartition("::")
        return namespace if separator else NAMESPACE

    @property
    def name(self) -> str:
        """The operator's name, without its namespace."""
        return self.schema.partition("(")[0].rpartition("::")[2]

    @property
    def full_name(self) -> str:
        """The name by which an artifact finds it, such as `autodeploy.rms_norm`."""
        return f"{self.namespace}.{self.name}"

    @cached_property
    def overload(self) -> torch._ops.OpOverload:
        """The callable that graph nodes hold, `torch.ops.<namespace>.<name>.default`; asking for it defines it."""
        define(self)
        overload: torch._ops.OpOverload = getattr(getattr(torch.ops, self.namespace), self.name).default
        return overload


@cache
def define(op: CanonicalOp) -> None:
    """Register `op` with PyTorch's dispatcher, served by its reference on every device; once is enough.

    Raises RuntimeError for a schema that PyTorch cannot read, and for a name that another operator has.
    """
    library = _library(op.namespace)
    library.define(op.schema.removeprefix(f"{op.namespace}::"))  # type: ignore[no-untyped-call]
    library.impl(op.name, op.reference, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"{op.namespace}::{op.name}", op.fake, lib=library)


@cache
def _library(namespace: str) -> torch.library.Library:
    """The definitions of a namespace, which last as long as this object does."""
    return torch.library.Library(namespace, "FRAGMENT")  # type: ignore[no-untyped-call]
