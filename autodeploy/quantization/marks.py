"""The precision that is settled for a projection: it stands on the node of its weight, where joins keep it."""

from __future__ import annotations

from torch.fx import Node

from autodeploy.quantization.rules import Precision
from autodeploy.quantization.scheme import SCHEMES, Scheme


def mark(weight: Node, precision: Precision) -> None:
    """Say how the projections that read `weight` are to be computed."""
    weight.meta["precision"] = precision


def inherit_mark(weight: Node, like: object) -> None:
    """Mark `weight` as `like` is marked, if it is."""
    if isinstance(like, Node) and "precision" in like.meta:
        weight.meta["precision"] = like.meta["precision"]


def scheme_of(weight: object) -> Scheme:
    """The scheme of a projection by the node of its weight; that of an unmarked one changes nothing."""
    found = weight.meta.get("precision") if isinstance(weight, Node) else None
    return found.scheme if isinstance(found, Precision) else SCHEMES["none"]
