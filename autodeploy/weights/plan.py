"""What every parameter of a graph is made of, before any of it is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autodeploy.errors import InvariantError, nearest
from autodeploy.graph.attributes import get_attribute
from autodeploy.weights.expression import Constant, Expression
from autodeploy.weights.layout import Concat, Slice, transpose
from autodeploy.weights.quantized import PartReader
from autodeploy.weights.source import TensorSource


class WeightPlan(MutableMapping[str, Expression]):
    """Expressions by the name of their parameter: the dotted target of its `get_attr` nodes.

    Two names with equal expressions are tied: they are read once and share their storage. `unexpected` lists the
    checkpoint's keys that no parameter takes.
    """

    def __init__(self, entries: Mapping[str, Expression] | None = None, unexpected: Sequence[str] = ()) -> None:
        self._entries = dict(entries or {})
        self.unexpected = tuple(unexpected)

    def __getitem__(self, name: str) -> Expression:
        if name not in self._entries:
            raise KeyError(f"no weight is called {name!r}; {nearest(name, self._entries)}")
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # a failed lookup would search for the nearest name

    def __setitem__(self, name: str, expression: Expression) -> None:
        self._entries[name] = expression

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"WeightPlan({len(self)} weights, {self.nbytes / 1e9:.3f} GB)"

    @property
    def nbytes(self) -> int:
        """The size of all weights in memory, in bytes; tied weights count once."""
        return sum(expression.nbytes for expression in self._groups())

    def copy(self) -> WeightPlan:
        """A plan that can be changed without changing this one."""
        return WeightPlan(self._entries, self.unexpected)

    def concat(self, names: Sequence[str], dim: int, new_name: str) -> Expression:
        """Add `new_name`: the weights `names`, one after the other along `dim`. The parts stay until `prune`."""
        return self._add(new_name, Concat(tuple(self[name] for name in names), dim))

    def slice(self, name: str, dim: int, start: int, stop: int, new_name: str) -> Expression:
        """Add `new_name`: elements `start` to `stop` of `name` along `dim`."""
        return self._add(new_name, Slice(self[name], dim, start, stop))

    def transpose(self, name: str, new_name: str, dim0: int = 0, dim1: int = 1) -> Expression:
        """Add `new_name`: `name` with two dimensions swapped."""
        return self._add(new_name, transpose(self[name], dim0, dim1))

    def add_constant(self, name: str, tensor: Tensor) -> Expression:
        """Add `name`: a small tensor that a pass or the model computed."""
        return self._add(name, Constant(name, tensor))

    def tied(self) -> list[tuple[str, ...]]:
        """The groups of two or more names that share one tensor."""
        return [tuple(names) for names in self._groups().values() if len(names) > 1]

    def owners(self) -> dict[str, str]:
        """For every name the first name that is tied to it: itself, when none comes before."""
        return {name: names[0] for names in self._groups().values() for name in names}

    def prune(self, gm: GraphModule) -> list[str]:
        """Drop the weights that no node of `gm` reads, and name them."""
        used = set(used_by(gm))
        dropped = [name for name in self._entries if name not in used]
        for name in dropped:
            del self._entries[name]
        return dropped

    def check(self, gm: GraphModule) -> None:
        """Raise InvariantError when `gm` reads a weight that the plan lacks."""
        missing = next((name for name in used_by(gm) if name not in self._entries), None)
        if missing is not None:
            raise InvariantError(f"the graph reads {missing!r}, which no weight is called; {nearest(missing, self)}")

    def read(self, source: TensorSource, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """Read every weight onto `device`, one after the other; tied weights share their storage.

        A weight that is a checkpoint tensor as it stands stays mapped on the CPU: do not write to it.
        """
        tensors: dict[str, Tensor] = {}
        reader = PartReader(source)
        for expression, names in self._groups().items():
            tensor = reader.read(expression).contiguous().to(device)
            tensors.update(dict.fromkeys(names, tensor))
        return {name: tensors[name] for name in self._entries}

    def _add(self, name: str, expression: Expression) -> Expression:
        if name in self._entries and self._entries[name] != expression:
            raise ValueError(f"a different weight is already called {name!r}")
        self._entries[name] = expression
        return expression

    def _groups(self) -> dict[Expression, list[str]]:
        groups: dict[Expression, list[str]] = {}
        for name, expression in self._entries.items():
            groups.setdefault(expression, []).append(name)
        return groups


def used_by(gm: GraphModule) -> list[str]:
    """Name the weights that the nodes of `gm` read, each once, in the order of their first use."""
    targets: Iterable[object] = (node.target for node in gm.graph.nodes if node.op == "get_attr")
    return list(dict.fromkeys(str(target) for target in targets))


def constants_in(gm: GraphModule, weights: WeightPlan) -> dict[str, Tensor]:
    """The tensors that `gm` reads and whose values are known: computed by code, and no parameters of a model."""
    plans = ((name, weights.get(name)) for name in used_by(gm))
    known = {name: plan.tensor for name, plan in plans if isinstance(plan, Constant) and not plan.tensor.is_meta}
    return {name: tensor for name, tensor in known.items() if not isinstance(get_attribute(gm, name), nn.Parameter)}
