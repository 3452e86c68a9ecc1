"""Where matches and misses came from, and how they are shown."""

from __future__ import annotations

import torch

from autodeploy.rewrite import Call, Expr, Miss, Place, apply_rules, rewrite
from autodeploy.rewrite.place import closest, counts, fold
from tests.rewrite.graphs import graph_of, raw_graph_of, rewritten

aten = torch.ops.aten


@rewrite(lambda x: Call(aten.silu.default, (x,)))
def swish(x: Expr) -> Expr:
    return x * Call(aten.sigmoid.default, (x,))


@rewrite(lambda x, y, z: (x + y) + z, where=lambda match: "never")
def three_terms(x: Expr, y: Expr, z: Expr) -> Expr:
    return (x + y) + z


def test_a_miss_names_the_line_of_the_node_where_it_stopped() -> None:
    (miss,) = apply_rules(graph_of(lambda x, y, w: x * y.cos().sigmoid()), [swish], lambda: True).misses
    assert miss.node == "cos"
    assert miss.source.startswith("graphs.py:")
    assert miss.source.endswith(" `return self.function(x, y, self.weight)`")
    assert str(miss).endswith(f"hole 'x' is already bound to x ({miss.source})")


def test_an_input_has_the_line_of_the_root() -> None:
    (miss,) = apply_rules(graph_of(lambda x, y, w: x * y.sigmoid()), [swish], lambda: True).misses
    assert miss.node == "y"
    assert "graphs.py:" in miss.source


def test_a_graph_without_lines_has_none_to_tell() -> None:
    gm = graph_of(lambda x, y, w: x * y.sigmoid())
    for node in gm.graph.nodes:
        node.meta.pop("stack_trace", None)
        node.meta.pop("nn_module_stack", None)
    (miss,) = apply_rules(gm, [swish], lambda: True).misses
    assert (miss.source, miss.module) == ("", "")
    assert str(miss) == "swish at mul: stopped at y: hole 'x' is already bound to x"


def test_a_rewrite_leaves_the_line_on_what_it_inserts() -> None:
    gm = raw_graph_of(lambda x, y, w: x * x.sigmoid())
    (place,) = rewritten(gm, swish).places
    (node,) = gm.graph.find_nodes(op="call_function", target=aten.silu.default)
    assert Place.of("swish", node) == Place("swish", node.name, place.module, place.source)
    assert place.source


def miss(layer: int, root: str, reason: str = "stopped") -> Miss:
    return Miss("norm", root, f"add_{layer}", reason, ("a", "b"), module=f"layers.{layer}.norm", source="m.py:3")


def test_what_repeats_in_each_layer_is_folded() -> None:
    folded = fold([miss(0, "mul"), miss(1, "mul_4"), miss(2, "mul_8", "another")])
    assert [(one.count, one.module) for one in folded] == [(2, "layers.*.norm"), (1, "layers.*.norm")]
    assert str(folded[0]) == "norm at mul: stopped at add_0: stopped (layers.*.norm, m.py:3), 2 times"
    assert str(folded[1]).endswith("(layers.2.norm, m.py:3)")


def test_reasons_that_differ_in_the_names_of_nodes_are_folded() -> None:
    reasons = [
        "add_3 is also used outside the pattern",
        "add_17 is also used outside the pattern",
        "expected 2, found 3",
    ]
    folded = fold(miss(index, f"mul_{index}", reason) for index, reason in enumerate(reasons))
    assert [one.count for one in folded] == [2, 1]
    assert len(fold([miss(0, "a", "expected 2, found 3"), miss(1, "b", "expected 2, found 4")])) == 2


def test_the_rule_that_came_nearest_speaks_for_a_root() -> None:
    short = Miss("short", "mul", "x", "r", ("a",), complete=False)
    deep = Miss("deep", "mul", "x", "r", ("a", "b"), complete=False)
    whole = Miss("whole", "mul", "x", "r", ("a",), complete=True)
    assert closest([short, deep]) == [deep]
    assert closest([deep, whole, short]) == [whole]
    assert [one.rule for one in closest([short, Miss("other", "add", "x", "r")])] == ["short", "other"]


def test_plain_arithmetic_alone_is_not_told_unless_asked_for() -> None:
    result = apply_rules(graph_of(lambda x, y, w: (x + y) + w), [three_terms], lambda: True)
    assert [miss.reason for miss in result.misses] == ["never"]
    assert closest(result.misses) == []


def test_what_is_canonical_already_is_not_told_unless_asked_for() -> None:
    @rewrite(lambda x, w: Call(torch.ops.autodeploy.rms_norm.default, (x, w, 1.0)), where=lambda match: "never")
    def of_norm(x: Expr, w: Expr) -> Expr:
        return Call(torch.ops.autodeploy.rms_norm.default, (x, w, 1.0)) * 2.0

    gm = graph_of(lambda x, y, w: torch.ops.autodeploy.rms_norm(x, w, 1.0) * 2.0)
    result = apply_rules(gm, [of_norm], lambda: True)
    assert [miss.reason for miss in result.misses] == ["never"]
    assert closest(result.misses) == []


def test_rules_that_never_applied_are_counted_too() -> None:
    places = [Place("a", "x"), Place("a", "y")]
    assert counts(places, ["a", "b"]) == {"a": 2, "b": 0}
