"""Passes that are wrong on purpose are caught, and the rewrite at fault is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field
from torch.fx import GraphModule, Node

from autodeploy.errors import VerificationError
from autodeploy.graph.nodes import arguments, call_arguments, calls_of, insert_call, value
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite import Call, Expr, rewrite
from tests.verify.conftest import Verify

aten = torch.ops.aten
ops = torch.ops.autodeploy
LAYER = "model.layers.2."


class Renew(Pass):
    """Makes each call of an operator anew, and changes one on the way."""

    name: ClassVar[str] = "renew"
    stage: ClassVar[Stage] = Stage.FUSE
    exact: ClassVar[bool] = False
    tolerance: ClassVar[float] = 1e-5
    target: Any = Field(exclude=True)
    mistake: Callable[[dict[str, Any]], object] = Field(exclude=True)
    where: str = LAYER

    def run(self, gm: GraphModule, ctx: Context) -> int:
        nodes = calls_of(gm.graph, self.target)
        return sum(self._renew(node, wrong=_belongs_to(node, self.where)) for node in nodes if ctx.spend())

    def _renew(self, node: Node, *, wrong: bool) -> int:
        named = arguments(node)
        if wrong:
            self.mistake(named)
        args, kwargs = call_arguments(self.target, list(named.values()))
        with node.graph.inserting_before(node):
            node.replace_all_uses_with(insert_call(node.graph, self.target, args, kwargs))
        node.graph.erase_node(node)
        return 1


def _belongs_to(node: Node, module: str) -> bool:
    """Whether `node` reads a weight of `module`, or what a projection with one has made."""
    weights = [node, *node.all_input_nodes, *(deep for one in node.all_input_nodes for deep in one.all_input_nodes)]
    return any(one.op == "get_attr" and str(one.target).startswith(module) for one in weights)


def larger_epsilon(named: dict[str, Any]) -> None:
    named["eps"] *= 100


def swapped(named: dict[str, Any]) -> None:
    named["gate"], named["up"] = named["up"], named["gate"]


def without_bias(named: dict[str, Any]) -> None:
    if "down_proj" in str(named["weight"].target):
        named["bias"] = None


@pytest.mark.parametrize(
    ("target", "mistake", "module", "line"),
    [
        (ops.rms_norm.default, larger_epsilon, f"{LAYER}input_layernorm", "return self.weight * hidden_states"),
        (ops.gated_activation.default, swapped, f"{LAYER}mlp", "self.act_fn(self.gate_proj(x)) * self.up_proj(x)"),
        (ops.linear.default, without_bias, f"{LAYER}mlp.down_proj", "self.down_proj("),
    ],
)
def test_the_wrong_one_of_many_rewrites_is_named(
    verify: Verify, target: Any, mistake: Callable[[dict[str, Any]], object], module: str, line: str
) -> None:
    with pytest.raises(VerificationError) as caught:
        verify(Renew(target=target, mistake=mistake))
    finding = caught.value.finding
    assert finding.rewrite is not None
    assert finding.rewrite.module == module
    assert "modeling_llama.py:" in str(finding.rewrite.source)
    assert line in str(finding.rewrite.source)
    assert len(finding.rewrite.before) == len(finding.rewrite.after) == 1
    assert finding.checks[-1].name == "renew"
    assert module in str(caught.value)
    assert "pass 'renew' changes the numbers in float32: the relative error is" in str(caught.value)


def test_the_same_pass_without_its_mistake_is_fine(verify: Verify) -> None:
    verification = verify(Renew(target=ops.linear.default, mistake=lambda named: None))
    assert verification.trials[0].checks[-1].failure is None


@rewrite(ops.gated_activation.default)
def swapped_gate(gate: Expr, up: Expr, kind: Expr) -> Expr:
    """A gate whose operands a replacement swaps, since the pattern has them the wrong way round."""
    return Call(ops.gated_activation.default, (up, gate, kind))


class WrongRule(Pass):
    """Applies a rule that is wrong everywhere."""

    name: ClassVar[str] = "wrong_rule"
    stage: ClassVar[Stage] = Stage.FUSE
    exact: ClassVar[bool] = False
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        return ctx.rewrite(gm, [swapped_gate])


def test_the_rule_is_named(verify: Verify) -> None:
    with pytest.raises(VerificationError, match=r"rule swapped_gate in model\.layers\.3\.mlp"):
        verify(WrongRule())


class Ulp(Pass):
    """Declares itself exact, and moves the logits by one unit in the last place."""

    name: ClassVar[str] = "ulp"
    stage: ClassVar[Stage] = Stage.FUSE

    def run(self, gm: GraphModule, ctx: Context) -> int:
        output = gm.graph.output_node()
        if not ctx.spend():
            return 0
        with gm.graph.inserting_before(output):
            moved = insert_call(gm.graph, aten.mul.Tensor, (output.args[0], 1 + 2**-23))
        output.args = (moved,)
        return 1


def test_one_unit_in_the_last_place_is_not_bitwise(verify: Verify) -> None:
    with pytest.raises(VerificationError, match=r"pass 'ulp' .* declared exact, and bits differ; rewrite 1 of 1"):
        verify(Ulp())


class Unfuelled(Ulp):
    """Changes the graph without asking."""

    name: ClassVar[str] = "unfuelled"

    def run(self, gm: GraphModule, ctx: Context) -> int:
        return super().run(gm, Context(ctx.config, ctx.weights, ctx.device))


def test_a_pass_that_ignores_fuel_is_told_so(verify: Verify) -> None:
    with pytest.raises(VerificationError, match="without asking for fuel") as caught:
        verify(Unfuelled())
    assert caught.value.finding.rewrite is None


class Coarse(Pass):
    """Rounds what the second norm of layer 2 gives to eight bits, in bfloat16 only."""

    name: ClassVar[str] = "coarse"
    stage: ClassVar[Stage] = Stage.FUSE
    exact: ClassVar[bool] = False
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        norms = [node for node in calls_of(gm.graph, ops.rms_norm.default) if value(node).dtype is torch.bfloat16]
        return sum(self._round(node) for node in norms if ctx.spend())

    def _round(self, node: Node) -> int:
        if not _belongs_to(node, f"{LAYER}post"):
            return 1
        with node.graph.inserting_after(node):
            small = insert_call(node.graph, aten.to.dtype, (node, torch.float8_e5m2))
        with node.graph.inserting_after(small):
            back = insert_call(node.graph, aten.to.dtype, (small, torch.bfloat16))
        node.replace_all_uses_with(back, delete_user_cb=lambda user: user is not small)
        return 1


def test_what_only_the_models_dtype_shows_is_caught_there(verify: Verify) -> None:
    verify(Coarse())
    with pytest.raises(VerificationError, match="in bfloat16: the distance from float32 is") as caught:
        verify(Coarse(), dtype=torch.bfloat16)
    assert caught.value.finding.rewrite is not None
    assert str(caught.value.finding.rewrite.module).startswith(LAYER)


class Infinite(Ulp):
    """Gives no numbers."""

    name: ClassVar[str] = "infinite"
    exact: ClassVar[bool] = False
    tolerance: ClassVar[float] = 1.0

    def run(self, gm: GraphModule, ctx: Context) -> int:
        output = gm.graph.output_node()
        with gm.graph.inserting_before(output):
            moved = insert_call(gm.graph, aten.mul.Tensor, (output.args[0], float("nan")))
        output.args = (moved,)
        return 1


def test_logits_that_are_no_numbers_are_never_close(verify: Verify) -> None:
    with pytest.raises(VerificationError, match="relative error is nan"):
        verify(Infinite())
