"""How many of each operator a graph holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from torch.fx import GraphModule

from autodeploy.graph.text import call_name


def op_counts(gm: GraphModule) -> Counter[str]:
    """How often each operator is called: canonical ones as `rms_norm`, others as `aten.mul`, overloads together."""
    return Counter(call_name(node.target) for node in gm.graph.nodes if node.op == "call_function")


def assert_counts(gm: GraphModule, expected: Mapping[str, int], absent: Iterable[str] = ()) -> None:
    """Hold that `gm` has as many of each operator as `expected` says, and none of those in `absent`.

    Names are those of `op_counts`; operators that neither names may occur. Raises AssertionError with each count that
    differs and with all that the graph holds.
    """
    counts = op_counts(gm)
    wrong = [
        f"{counts[name]} {name} where {wanted} should be"
        for name, wanted in {**dict.fromkeys(absent, 0), **expected}.items()
        if counts[name] != wanted
    ]
    held = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    assert not wrong, f"{'; '.join(wrong)} (the graph holds {held})"
