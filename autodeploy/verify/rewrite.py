"""The single rewrite that moved the numbers, found by bisecting with fuel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rich.console import Group
from rich.text import Text
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from autodeploy.graph.copy import copy_graph
from autodeploy.graph.origin import common_module, source_line
from autodeploy.graph.text import node_text
from autodeploy.pipeline import Context, Pass, run_passes

_PLENTY = 1 << 40
_Calls = dict[tuple[str, str], Node]


@dataclass(frozen=True)
class State:
    """A graph between two passes, and what is known of it. Neither is to be changed."""

    graph_module: GraphModule
    context: Context

    def after(self, current: Pass, fuel: int | None) -> State:
        """The state that at most `fuel` rewrites of `current` lead to."""
        gm = copy_graph(self.graph_module)
        context = replace(self.context, weights=self.context.weights.copy(), fuel=fuel, misses=[])
        run_passes(gm, [current], context)
        return State(gm, context)

    def computes_as(self, other: State) -> bool:
        """Whether both graphs make the same calls with the same kernels and weights, so that running one is enough."""
        return self._calls() == other._calls() and dict(self.context.weights) == dict(other.context.weights)

    def _calls(self) -> list[tuple[str, str, str | None]]:
        nodes = [node for node in self.graph_module.graph.nodes if node.op != "get_attr"]
        return [(node_text(node), str(node.target), node.meta.get("backend")) for node in nodes]


@dataclass(frozen=True)
class Rewrite:
    """One rewrite of a pass: its number among the pass's, its rule if a pattern made it, and the nodes it replaced.

    `module` and `source` say where in the model these nodes come from; None where that is not known.
    """

    number: int
    total: int
    rule: str | None
    module: str | None
    source: str | None
    before: tuple[str, ...]
    after: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([self.headline, *(f"- {line}" for line in self.before), *(f"+ {line}" for line in self.after)])

    @property
    def headline(self) -> str:
        """Such as "rewrite 3 of 9, by rule rms_norm in model.layers.1.input_layernorm (modeling_llama.py:66 …)"."""
        rule = f", by rule {self.rule}" if self.rule else ""
        module = f" in {self.module}" if self.module else ""
        source = f" ({self.source})" if self.source else ""
        return f"rewrite {self.number} of {self.total}{rule}{module}{source}"

    def __rich__(self) -> Group:
        """The nodes before in red and those after in green."""
        before = [Text(f"- {line}", "red") for line in self.before]
        after = [Text(f"+ {line}", "green") for line in self.after]
        return Group(Text(self.headline, "bold"), *before, *after)


def find_rewrite(start: State, current: Pass, is_wrong: Callable[[State], bool]) -> Rewrite | None:
    """The first rewrite of `current` after which `is_wrong` holds, in O(log n) runs of the pass for n rewrites.

    None when it holds without any rewrite, as when a pass changes the graph without asking for fuel.
    """
    total = _num_rewrites(start, current)
    if total == 0 or is_wrong(start.after(current, 0)):
        return None
    right, wrong = 0, total
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if is_wrong(start.after(current, middle)):
            wrong = middle
        else:
            right = middle
    return _describe(start.after(current, wrong - 1), start.after(current, wrong), wrong, total)


def _num_rewrites(start: State, current: Pass) -> int:
    """How much fuel the pass burns: what it reports may count otherwise."""
    left = start.after(current, _PLENTY).context.fuel
    assert left is not None
    return _PLENTY - left


def _describe(without: State, with_it: State, number: int, total: int) -> Rewrite:
    gone, made = _changed(_calls(without.graph_module), _calls(with_it.graph_module))
    rules = [node.meta["rule"] for node in made if "rule" in node.meta]
    sources = [source for source in map(source_line, reversed([*made, *gone])) if source]
    return Rewrite(
        number=number,
        total=total,
        rule=rules[-1] if rules else None,
        module=common_module(gone) or common_module(made),
        source=sources[0] if sources else None,
        before=tuple(map(node_text, gone)),
        after=tuple(map(node_text, made)),
    )


def _changed(old: _Calls, new: _Calls) -> tuple[list[Node], list[Node]]:
    """The nodes that are gone and those that were made; one whose constants changed is both.

    That a node uses what was made in place of what is gone tells nothing, unless it is all that happened.
    """
    kept = [key for key in old if key in new]
    altered = {key for key in kept if _constants(old[key]) != _constants(new[key])}
    gone = [node for key, node in old.items() if key not in new or key in altered]
    made = [node for key, node in new.items() if key not in old or key in altered]
    if gone or made:
        return gone, made
    rewired = [key for key in kept if node_text(old[key]) != node_text(new[key])]
    return [old[key] for key in rewired], [new[key] for key in rewired]


def _constants(node: Node) -> str:
    """The arguments of a call without those that are nodes."""
    return str(map_arg((node.args, node.kwargs), lambda argument: None))


def _calls(gm: GraphModule) -> _Calls:
    """Calls and inputs by name and operator: a name may go to another node once its own is erased."""
    kept = [node for node in gm.graph.nodes if node.op in ("call_function", "placeholder")]
    return {(node.name, str(node.target)): node for node in kept}
