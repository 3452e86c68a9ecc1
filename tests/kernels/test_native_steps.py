from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.fx import Graph

from autodeploy.kernels.native.steps import RecordedStep, record, why_not_recordable
from autodeploy.program import Program
from autodeploy.runtime.model import StepInputs
from autodeploy.testing.families import tiny_model
from autodeploy.weights import MemorySource
from tests.families import build, config_of

pytestmark = pytest.mark.usefixtures("native_backend")
NATIVE = torch.ops.autodeploy_native


def decode(batch_size: int, position: int, page_size: int = 4) -> StepInputs:
    """A decode step of requests that have a page each for every `page_size` tokens, at different positions."""
    positions = position + torch.arange(batch_size)
    table = torch.arange(batch_size * 8, dtype=torch.int32).view(batch_size, 8)
    pages = table[torch.arange(batch_size), positions // page_size].long()
    return StepInputs(
        input_ids=torch.randint(0, 90, (batch_size,)),
        position_ids=positions,
        query_start=torch.arange(batch_size + 1, dtype=torch.int32),
        context_len=(positions + 1).int(),
        page_table=table,
        slots=pages * page_size + positions % page_size,
        logit_rows=torch.arange(batch_size),
    )


def unrecorded(program: Program, step: StepInputs, cache: list[Tensor]) -> Tensor:
    """The same step, node by node: with a row of padding it is no decode of recorded size."""
    padded = replace(
        step,
        input_ids=torch.nn.functional.pad(step.input_ids, (0, 1)),
        position_ids=torch.nn.functional.pad(step.position_ids, (0, 1)),
        slots=torch.cat((step.slots, torch.tensor([cache[0].shape[0] * cache[0].shape[2] - 1]))),
    )
    return program.forward(padded, cache)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_a_recorded_step_gives_the_same_bits(family: str) -> None:
    program = build(config_of(family), MemorySource(dict(tiny_model(config_of(family)).state_dict()))).program
    caches = [program.new_cache(33, 4) for _ in range(4)]
    for position in range(12):
        for batch_size, (recorded, plain) in zip((1, 3), (caches[:2], caches[2:]), strict=True):
            step = decode(batch_size, position)
            assert torch.equal(program.forward(step, recorded), unrecorded(program, step, plain))
            assert all(torch.equal(a[:-1], b[:-1]) for a, b in zip(recorded, plain, strict=True))


def graph_of(*targets: object) -> Graph:
    """Each target called on what the one before it gave."""
    graph = Graph()
    value = graph.placeholder("x")
    for target in targets:
        value = graph.call_function(target, (value,))  # type: ignore[arg-type]
    graph.output(value)
    return graph


def recorded_sum(rows: int) -> RecordedStep:
    relu, square = torch.ops.autodeploy_native.activate.default, torch.ops.aten.square.default
    graph = Graph()
    x = graph.placeholder("x")
    first = graph.call_function(relu, (x, "relu"))
    second = graph.call_function(square, (graph.call_function(torch.ops.aten.t.default, (first,)),))
    third = graph.call_function(relu, (graph.call_function(torch.ops.aten.t.default, (second,)), "silu"))
    graph.output(graph.call_function(relu, (third, "gelu")))
    return record(graph, [torch.randn(rows, 8)], [])


def test_kernels_and_other_calls_may_alternate() -> None:
    step = recorded_sum(4)
    assert [type(part).__name__ for part in step.parts] == ["Kernels", "Call", "Kernels"]
    for _ in range(3):
        x = torch.randn(4, 8)
        wanted = torch.nn.functional.gelu(torch.nn.functional.silu(x.relu().square()))
        torch.testing.assert_close(step.run([x]), wanted, rtol=1e-5, atol=1e-6)


def test_memory_is_used_again_once_nobody_reads_it() -> None:
    activate = NATIVE.activate.default
    graph = Graph()
    values = [graph.placeholder("x")]
    for _ in range(6):
        values.append(graph.call_function(activate, (values[-1], "sigmoid")))
    graph.output(values[-1])
    x = torch.randn(3, 700)
    step = record(graph, [x], [])
    first = step.output.data_ptr()
    expected = x
    for _ in range(6):
        expected = expected.sigmoid()
    torch.testing.assert_close(step.run([x]), expected)
    assert step.output.data_ptr() == first


def test_copies_of_strided_arguments_are_recorded() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    gate, up = (graph.call_function(torch.ops.aten.slice.Tensor, (x, 1, first, None, 2)) for first in (0, 1))
    graph.output(graph.call_function(NATIVE.gated_activation.default, (gate, up, "silu")))
    step = record(graph, [torch.randn(5, 12)], [])
    x_again = torch.randn(5, 12)
    assert torch.equal(step.run([x_again]), NATIVE.gated_activation(x_again[:, ::2], x_again[:, 1::2], "silu"))


def test_shapes_that_depend_on_data_are_not_recorded() -> None:
    assert why_not_recordable(graph_of(torch.ops.aten.relu.default)) is None
    reason = why_not_recordable(graph_of(torch.ops.aten.nonzero.default))
    assert reason == "what nonzero_default gives depends on data"


def test_a_second_recording_waits_for_the_first() -> None:
    tape, other = (torch.classes.autodeploy_native.Tape() for _ in range(2))
    tape.start()
    with pytest.raises(RuntimeError, match="another tape is recording"):
        other.start()
    tape.stop()
    other.start()
    other.stop()
