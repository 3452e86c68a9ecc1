"""A residual joins the projection before it, and gives it its memory where nobody needs it any more."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule

from autodeploy import ops
from autodeploy.export import trace_model
from autodeploy.graph.nodes import insert_call
from autodeploy.kernels import Kernel, KernelTable, reference_kernel
from autodeploy.passes.fuse_residual_linear import FuseResidualLinear
from autodeploy.pipeline import PassReport, run_passes
from autodeploy.program import Program, ProgramSpec, bind, cache_specs
from autodeploy.testing.families import MAX_POSITIONS, VOCAB_SIZE, tiny_config, tiny_model
from autodeploy.weights import MemorySource
from tests import families
from tests.graphs import run, targets
from tests.passes.residual_rows import PASSES, WIDTH, Function, Rows, random_inputs


def added_over(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    """The sum in the memory of the residual."""
    assert residual.is_contiguous()
    return residual.add_(x @ weight.T)


KERNEL = replace(reference_kernel(ops.residual_linear), backend="fast", priority=1, run_over=added_over)


def optimized(function: Function, *kernels: Kernel, fuel: int | None = None) -> tuple[GraphModule, PassReport]:
    """The graph after the pass, which was held to compute what the function does."""
    module = Rows(function).eval()
    passed = run(PASSES, module, *random_inputs())
    gm, ctx = passed.graph_module, passed.context
    ctx.kernels, ctx.fuel = KernelTable([reference_kernel(ops.residual_linear), *kernels]), fuel
    (report,) = run_passes(gm, [FuseResidualLinear()], ctx)
    fresh = random_inputs()
    torch.testing.assert_close(gm(*fresh), module(*fresh), rtol=1e-5, atol=1e-5)
    return gm, report


def two_layers(w: Rows, x: Tensor, residual: Tensor) -> object:
    first = residual * 2 + w.down(x)
    second = w.down(w.rms(first)) + first
    return w.layer(second) * second


@pytest.mark.parametrize(
    ("function", "matches"),
    [
        (two_layers, 2),
        (lambda w, x, residual: w.rms(residual * 2 + w.down(x)), 1),
        (lambda w, x, residual: w.layer(w.down(x) + w.down(residual)), 1),
        (lambda w, x, residual: w.rms((residual * 2).reshape(1, 5, WIDTH) + w.down(x)), 1),
    ],
)
def test_a_residual_joins_the_projection(function: Function, matches: int) -> None:
    gm, report = optimized(function, KERNEL)
    found = targets(gm)
    assert found.count("autodeploy.residual_linear.default") == report.matches == matches
    assert not [name for name in found if name.startswith("autodeploy.add_")]


def read_twice(w: Rows, x: Tensor, residual: Tensor) -> object:
    projected = w.down(x)
    return w.rms(residual * 2 + projected) + projected


def read_later(w: Rows, x: Tensor, residual: Tensor) -> Tensor:
    wide = residual * 2
    view = wide.reshape(5, WIDTH)
    return w.rms(wide + w.down(x)) + view


def of_itself(w: Rows, x: Tensor, residual: Tensor) -> Tensor:
    wide = residual * 2
    return w.rms(wide + w.down(x)) * wide.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (read_twice, "something else reads linear"),
        (read_later, "reads mul later"),
        (of_itself, "sum_1 reads mul later"),
        (lambda w, x, residual: w.rms(residual + w.down(x)), "residual is memory of residual, which outlives the step"),
        (lambda w, x, residual: w.rms(residual * 2 + w.shifted(x)), "adds a bias or a residual, not both"),
        (lambda w, x, residual: w.rms(residual * 2 + x), "neither mul nor x is a projection"),
    ],
)
def test_another_does_not_and_says_why(function: Function, reason: str) -> None:
    gm, report = optimized(function, KERNEL)
    assert "autodeploy.residual_linear.default" not in targets(gm)
    (miss,) = report.misses
    assert reason in miss.reason


def test_nothing_is_fused_without_a_kernel_or_fuel() -> None:
    _, report = optimized(two_layers)
    assert (report.matches, {miss.reason for miss in report.misses}) == (0, {"no kernel of cpu does both in one"})
    assert optimized(two_layers, KERNEL, fuel=1)[1].matches == 1


def test_a_step_writes_over_what_nobody_needs() -> None:
    """Every sum lies where the one before was; selecting some rows of the last layer copies them."""
    config = tiny_config("llama")
    source = MemorySource(dict(tiny_model(config).state_dict()))
    wanted = families.build(config, source).program
    written: list[int] = []

    def over(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        written.append(residual.data_ptr())
        return added_over(x, weight, residual)

    program = lowered(source, KernelTable([*families.kernel_table(), replace(KERNEL, run_over=over)]))
    tokens = torch.randint(3, VOCAB_SIZE, (9,)).tolist()
    for chunks in ([9], [5, 3, 1]):
        got = families.replay(program, tokens, chunks)
        assert families.error(got, families.replay(wanted, tokens, chunks)) <= 1e-5
    assert len(written) == 4 * 4
    assert len({*written[:4]}) == 1
    step = replace(families.step_of(tokens, 0, 4), logit_rows=torch.tensor([8]))
    assert families.error(program.forward(step, program.new_cache(3, 4)), got[8:]) <= 1e-5
    first, second, *last = written[-4:]
    assert (first, last[0]) == (second, last[1])
    assert first != last[0]


def lowered(source: MemorySource, table: KernelTable) -> Program:
    """A tiny model that runs by the kernels of a table."""
    config = tiny_config("llama")
    traced = trace_model(config, torch.float32)
    context = families.context_of(traced, source, kernels=table)
    reports = run_passes(traced.graph_module, families.default_passes(config), context)
    assert {one.name: one.matches for one in reports}["fuse_residual_linear"] == 4
    graph = traced.graph_module.graph
    spec = ProgramSpec(VOCAB_SIZE, MAX_POSITIONS, cache_specs(graph))
    return Program(traced.graph_module, context.weights.read(source), table, torch.device("cpu"), spec)


@pytest.mark.parametrize("kept", [False, True])
def test_what_is_read_later_is_not_written_over(kept: bool) -> None:
    graph, mode = Graph(), FakeTensorMode()
    inputs = [torch.randn(5, WIDTH), torch.randn(WIDTH, WIDTH), torch.randn(5, WIDTH)]
    nodes = [graph.placeholder(name) for name in ("x", "weight", "residual")]
    for node, tensor in zip(nodes, inputs, strict=True):
        node.meta["val"] = mode.from_tensor(tensor)
    wide = insert_call(graph, torch.ops.aten.neg.default, nodes[2:])
    total = insert_call(graph, ops.residual_linear.overload, (*nodes[:2], wide))
    total.meta["backend"] = KERNEL.backend
    graph.output(insert_call(graph, torch.ops.aten.sub.Tensor, (total, wide)) if kept else total)
    calls: list[Tensor] = []

    def over(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
        calls.append(residual)
        return added_over(x, weight, residual)

    bound, _ = bind(graph, KernelTable([replace(KERNEL, run_over=over)]), torch.device("cpu"))
    out = GraphModule(nn.Module(), bound)(*inputs)
    torch.testing.assert_close(out, inputs[0] @ inputs[1].T - (0 if kept else inputs[2]))
    assert len(calls) == (not kept)
