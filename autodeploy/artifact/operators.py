"""Which operators a saved graph may call, and whether its arguments fit them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket

import autodeploy.ops  # noqa: F401 (registers torch.ops.autodeploy)
from autodeploy.errors import ArtifactError, InvariantError, nearest

NAMESPACES = ("aten", "autodeploy")

FUNCTIONS: Mapping[str, tuple[Callable[..., Any], int]] = {
    "operator.add": (operator.add, 2),
    "operator.eq": (operator.eq, 2),
    "operator.floordiv": (operator.floordiv, 2),
    "operator.ge": (operator.ge, 2),
    "operator.getitem": (operator.getitem, 2),
    "operator.gt": (operator.gt, 2),
    "operator.le": (operator.le, 2),
    "operator.lt": (operator.lt, 2),
    "operator.mod": (operator.mod, 2),
    "operator.mul": (operator.mul, 2),
    "operator.ne": (operator.ne, 2),
    "operator.neg": (operator.neg, 1),
    "operator.sub": (operator.sub, 2),
    "torch.sym_max": (torch.sym_max, 2),
    "torch.sym_min": (torch.sym_min, 2),
}
"""Functions that are no operators of PyTorch (arithmetic of sizes, picking one of several results), and their arity."""


def target_name(target: object, where: str) -> str:
    """Name a node's target: `aten.add.Tensor`; InvariantError when an artifact cannot hold it."""
    if isinstance(target, OpOverload):
        return f"{target.namespace}.{target._schema.name.partition('::')[2]}.{target._overloadname}"
    name = next((name for name, (function, _) in FUNCTIONS.items() if function is target), None)
    if name is None:
        raise InvariantError(f"node {where!r} calls {target}, which an artifact cannot hold: it is not an operator")
    return name


def find_target(name: str, namespaces: Collection[str], where: str) -> Callable[..., Any]:
    """Find the operator called `name`; ArtifactError when it is outside the allow-list or does not exist."""
    if name in FUNCTIONS:
        return FUNCTIONS[name][0]
    parts = name.split(".")
    if len(parts) != 3 or not all(part.isidentifier() for part in parts):
        raise ArtifactError(f"graph.json: node {where!r} calls {name[:60]!r}, which is not an operator")
    namespace, packet_name, overload_name = parts
    if namespace not in namespaces:
        allowed = ", ".join(sorted(namespaces))
        raise ArtifactError(
            f"graph.json: node {where!r} calls {name[:60]!r}, which is refused: allowed are operators of {allowed}"
        )
    packet = getattr(getattr(torch.ops, namespace), packet_name, None)
    overload = getattr(packet, overload_name, None) if isinstance(packet, OpOverloadPacket) else None
    if not isinstance(overload, OpOverload):
        raise ArtifactError(f"graph.json: node {where!r} calls {name[:60]!r}, which does not exist in this version")
    if any(argument.name == "filename" for argument in overload._schema.arguments):  # aten.from_file, aten.save
        raise ArtifactError(f"graph.json: node {where!r} calls {name[:60]!r}, which is refused: it touches files")
    return overload


def check_arguments(target: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], where: str) -> None:
    """Raise ArtifactError unless `args` and `kwargs` are arguments that `target` takes."""
    if not isinstance(target, OpOverload):
        arity = next(arity for function, arity in FUNCTIONS.values() if function is target)
        if kwargs or len(args) != arity:
            raise ArtifactError(f"graph.json: node {where!r} must have {arity} arguments and no names")
        return
    known = {argument.name: argument for argument in target._schema.arguments}
    positional = [name for name, argument in known.items() if not argument.kwarg_only]
    if len(args) > len(positional):
        raise ArtifactError(f"graph.json: node {where!r} gives {len(args)} arguments; {target} takes {len(positional)}")
    given = [*positional[: len(args)], *kwargs]
    unknown = next((name for name in kwargs if name not in known), None)
    if unknown is not None:
        raise ArtifactError(
            f"graph.json: {target} of node {where!r} has no argument {unknown[:40]!r}; {nearest(unknown, known)}"
        )
    if len(given) != len(set(given)):
        raise ArtifactError(f"graph.json: node {where!r} gives an argument of {target} twice")
    missing = next((n for n, argument in known.items() if n not in given and not argument.has_default_value()), None)
    if missing is not None:
        raise ArtifactError(f"graph.json: node {where!r} gives {target} no {missing!r}")
