"""Which operators a saved graph may call, and whether its arguments fit them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket
from torch.fx import Graph

import autodeploy.ops  # noqa: F401 (registers torch.ops.autodeploy)
from autodeploy.discovery import discover
from autodeploy.errors import ArtifactError, InvariantError, nearest

NAMESPACES = ("aten", "autodeploy")
"""Namespaces that every graph may call; beyond them, only operators that installed plugins declare."""

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


def find_target(name: str, plugins: Mapping[str, str], where: str) -> Callable[..., Any]:
    """Find the operator called `name`; ArtifactError when it is outside the allow-list or does not exist.

    `plugins` are those that the artifact needs: the distribution of each, for the error where one is missing.
    """
    if name in FUNCTIONS:
        return FUNCTIONS[name][0]
    parts = name.split(".")
    if len(parts) != 3 or not all(part.isidentifier() for part in parts):
        raise ArtifactError(f"graph.json: node {where!r} calls {name[:60]!r}, which is not an operator")
    namespace, packet_name, overload_name = parts
    if namespace not in NAMESPACES:
        return _plugin_operator(name, plugins, where)
    packet = getattr(getattr(torch.ops, namespace), packet_name, None)
    overload = getattr(packet, overload_name, None) if isinstance(packet, OpOverloadPacket) else None
    if not isinstance(overload, OpOverload):
        raise ArtifactError(f"graph.json: node {where!r} calls {name[:60]!r}, which does not exist in this version")
    if any(argument.name == "filename" for argument in overload._schema.arguments):  # aten.from_file, aten.save
        raise ArtifactError(f"graph.json: node {where!r} calls {name[:60]!r}, which is refused: it touches files")
    return overload


def _plugin_operator(name: str, plugins: Mapping[str, str], where: str) -> OpOverload:
    """The operator that an installed plugin declares under exactly this name."""
    registry = discover()
    namespace = name.partition(".")[0]
    op = registry.ops.get(name.removesuffix(".default"))
    if op is not None and name.endswith(".default"):
        return op.overload
    if namespace not in plugins:
        raise ArtifactError(
            f"graph.json: node {where!r} calls {name[:60]!r}, which is refused: allowed are operators of"
            f" {', '.join(NAMESPACES)}, and of installed plugins"
        )
    wanted = f"the plugin {namespace!r} of {plugins[namespace]}"
    problem = next((one for one in registry.problems if one.provider.plugin == namespace), None)
    if problem is not None:
        raise ArtifactError(f"this artifact needs {wanted}, and {problem}")
    installed = next((one for one in registry.providers() if one.plugin == namespace), None)
    state = f"{installed} does not have {name[:60]!r}" if installed else "it is not installed"
    raise ArtifactError(f"this artifact needs {wanted}, and {state}")


def needed_plugins(graph: Graph) -> dict[str, str]:
    """The plugins whose operators a graph calls, with the distribution and version of each.

    Raises InvariantError for an operator that nobody who is installed declares: nobody could load it.
    """
    needed: dict[str, str] = {}
    for node in graph.nodes:
        target = node.target
        if not isinstance(target, OpOverload) or target.namespace in NAMESPACES:
            continue
        provider = discover().origins.get(("ops", target_name(target, node.name).removesuffix(".default")))
        if provider is None:
            raise InvariantError(f"node {node.name!r} calls {target}, and no plugin has it among its ops")
        needed[provider.plugin] = str(provider)
    return needed


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
