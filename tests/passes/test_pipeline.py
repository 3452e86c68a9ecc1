from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torch.fx import GraphModule

from autodeploy.errors import InvariantError, RecipeError
from autodeploy.graph.nodes import calls_of, insert_call
from autodeploy.pipeline import Context, Pass, PassReport, Stage, check_order, run_passes
from autodeploy.weights import MemorySource, WeightPlan
from autodeploy.weights.expression import Stored
from tests.graphs import clean, context, trace

aten = torch.ops.aten


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def graph() -> GraphModule:
    return clean(trace(Scaled(), torch.randn(1, 6, 4)))


def with_weight(shape: int = 4) -> Context:
    source = MemorySource({"weight": torch.randn(shape)})
    return Context(None, WeightPlan({"weight": Stored.of("weight", source)}), torch.device("cpu"))  # type: ignore[arg-type]


class Early(Pass):
    """Does nothing at CANONICALIZE."""

    name: ClassVar[str] = "early"
    stage: ClassVar[Stage] = Stage.CANONICALIZE

    def run(self, gm: GraphModule, ctx: Context) -> int:
        return 0


class Late(Early):
    """Does nothing at FUSE."""

    name: ClassVar[str] = "late"
    stage: ClassVar[Stage] = Stage.FUSE


class Cleanup(Early):
    """Does nothing at any stage."""

    name: ClassVar[str] = "cleanup"
    stage: ClassVar[Stage] = Stage.CLEAN
    cleanup: ClassVar[bool] = True


class Broken(Pass):
    """Does to the graph what a test asks for."""

    name: ClassVar[str] = "broken"
    stage: ClassVar[Stage] = Stage.FUSE
    damage: Callable[[GraphModule], object] = Field(exclude=True)

    def run(self, gm: GraphModule, ctx: Context) -> int:
        self.damage(gm)
        return 1


def product(gm: GraphModule) -> torch.fx.Node:
    return calls_of(gm.graph, aten.mul.Tensor)[0]


def replace(gm: GraphModule, target: Callable[..., object], *extra: object) -> None:
    """Put a call of `target` after the product."""
    node = product(gm)
    with gm.graph.inserting_after(node):
        new = insert_call(gm.graph, target, (node, *extra))  # type: ignore[arg-type]
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def forget_type(gm: GraphModule) -> None:
    del product(gm).meta["val"]


def call_method(gm: GraphModule) -> None:
    node = product(gm)
    with gm.graph.inserting_after(node):
        new = gm.graph.call_method("sin", (node,))
    new.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def use_before_definition(gm: GraphModule) -> None:
    next(iter(gm.graph.nodes)).prepend(product(gm))


def retype_weight(gm: GraphModule) -> None:
    (node,) = gm.graph.find_nodes(op="get_attr")
    node.meta["val"] = node.meta["val"].new_empty(5)


def rename_weight(gm: GraphModule) -> None:
    (node,) = gm.graph.find_nodes(op="get_attr")
    gm.other = nn.Parameter(torch.randn(4))
    node.target = "other"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (forget_type, "after broken: mul has no shape and dtype"),
        (call_method, "after broken: sin is a call_method"),
        (lambda gm: replace(gm, aten.alias.default), "after broken: .* still calls aten.alias.default"),
        (lambda gm: replace(gm, aten.view.default, [-1]), "after broken: .* still calls aten.view.default"),
        (
            lambda gm: replace(gm, aten.layer_norm.default, [4]),
            "after broken: .* still calls aten.layer_norm.default",
        ),
        (lambda gm: replace(gm, torch.sin), "after broken: .* which is no operator"),
        (retype_weight, r"after broken: weight 'weight' is \(5,\) torch.float32 in the graph, \(4,\)"),
        (rename_weight, "after broken: weight '.*' is not both in the graph and in the plan"),
    ],
)
def test_what_a_pass_must_not_leave_is_named_with_the_pass(
    damage: Callable[[GraphModule], object], sentence: str
) -> None:
    with pytest.raises(InvariantError, match=sentence):
        run_passes(graph(), [Early(), Broken(damage=damage), Late()], with_weight())


def test_a_graph_out_of_order_is_caught() -> None:
    with pytest.raises(RuntimeError, match="used before it has been defined"):
        run_passes(graph(), [Broken(damage=use_before_definition)], with_weight())


def test_dead_code_is_removed_for_the_pass() -> None:
    def leave_dead(gm: GraphModule) -> None:
        with gm.graph.inserting_after(product(gm)):
            insert_call(gm.graph, aten.sin.default, (product(gm),))

    gm = graph()
    (report,) = run_passes(gm, [Broken(damage=leave_dead)], with_weight())
    assert report.nodes_before == report.nodes_after == len(gm.graph.nodes)


def test_weights_that_a_pass_leaves_unused_leave_the_plan() -> None:
    def forget_weight(gm: GraphModule) -> None:
        node = product(gm)
        node.args = (node.args[0], 2.0)

    ctx = with_weight()
    run_passes(graph(), [Broken(damage=forget_weight)], ctx)
    assert dict(ctx.weights) == {}


def test_stages_never_go_back() -> None:
    with pytest.raises(RecipeError, match=r"pass 'early' \(CANONICALIZE\) comes after 'late' \(FUSE\).*move it before"):
        check_order([Early(), Late(), Early()])


def test_cleanup_passes_run_at_any_stage() -> None:
    check_order([Cleanup(), Early(), Cleanup(), Late(), Cleanup()])
    with pytest.raises(RecipeError, match="'early'"):
        check_order([Late(), Cleanup(), Early()])


def test_a_pass_is_a_frozen_value_without_unknown_options() -> None:
    assert Early() == Early()
    with pytest.raises(ValidationError):
        Early(speed=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        Broken(damage=forget_type).damage = call_method


def test_reports_are_observed_as_they_come() -> None:
    seen: list[PassReport] = []
    reports = run_passes(graph(), [Early(), Late()], with_weight(), seen.append)
    assert seen == reports
    assert [(report.name, report.stage, report.matches) for report in reports] == [
        ("early", "CANONICALIZE", 0),
        ("late", "FUSE", 0),
    ]


def test_fuel_is_spent_one_rewrite_at_a_time() -> None:
    limited = context(2)
    assert [limited.spend() for _ in range(4)] == [True, True, False, False]
    assert all(context().spend() for _ in range(4))
