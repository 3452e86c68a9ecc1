"""Attention as it is tuned: what is told apart, what it is timed with, and who runs it then."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule

from autodeploy import ops
from autodeploy.hardware import load_gpu
from autodeploy.kernels import Kernel, KernelTable, builtin_kernels, reference_kernel
from autodeploy.kernels.attention import Attention
from autodeploy.kernels.table import Tunable
from autodeploy.program import bind
from autodeploy.tuning import Choice, Choices, Matmul, Site, attentions_of, tune_attentions
from autodeploy.tuning.attention import op_of
from autodeploy.tuning.attention_operands import expected_step, random_step
from autodeploy.tuning.choices import choices_from
from autodeploy.tuning.dispatch import tuned_attention
from autodeploy.tuning.floor import attention_floor, matmul_floor
from autodeploy.tuning.session import sites_of
from autodeploy.tuning.tune_attention import attention_rows_of, contexts_of, leaves_choice

PLAIN = Attention(4, 2, 16, 16, "float32", "float32", prompt=False, rotary=16)
KINDS = [
    PLAIN,
    replace(PLAIN, rotary=8, interleaved=True, window=5),
    replace(PLAIN, rotary=0, value_width=32, softcap=5.0, has_sinks=True),
    replace(PLAIN, rotary=0, has_slopes=True, cache="int8", has_scales=True),
    replace(PLAIN, dtype="bfloat16", cache="float8_e4m3fn"),
]


@dataclass(frozen=True)
class Cut:
    """A configuration of a pretended kernel."""

    block: int


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_operands_are_those_of_the_attention(kind: Attention, prompt: bool) -> None:
    """A call with the operands is of the attention that they were made for, and the reference leaves them alone."""
    kind = replace(kind, prompt=prompt)
    first, second = random_step(kind, 3, 40, 2, "cpu")
    graph = Graph()
    graph.output(graph.call_function(op_of(kind), tuple(_held(graph, one) for one in first)))
    assert attentions_of(graph) == tuple(replace(kind, prompt=one) for one in (False, True))
    assert sites_of(graph) == attentions_of(graph)
    before = [one.clone() for one in first if isinstance(one, Tensor)]
    out = expected_step(kind, first)
    assert all(torch.equal(one, was) for one, was in zip(_tensors(first), before, strict=True))
    assert out.shape == (3, kind.heads, kind.value_width)
    assert 0.05 < float(out.std()) < 2.0
    assert not torch.equal(out, expected_step(kind, second))


def _tensors(operands: Any) -> list[Tensor]:
    return [one for one in operands if isinstance(one, Tensor)]


def _held(graph: Graph, operand: Any) -> Any:
    """A tensor as the graph's input, and anything else as it is."""
    if not isinstance(operand, Tensor):
        return operand
    node = graph.placeholder(f"x{len(graph.nodes)}")
    node.meta["val"] = operand
    return node


def recording_kernel(calls: list[str], op: Any = ops.rope_paged_attention) -> Kernel:
    """A kernel that writes down how it was cut."""

    def bind(cut: Cut) -> Any:
        def run(*operands: Any) -> Tensor:
            calls.append(f"fast {cut.block}")
            return op.reference(*operands)  # type: ignore[no-any-return]

        return run

    tunable = Tunable(lambda rows, attention: (Cut(4),), bind, Cut)
    return Kernel(op, "fast", bind(Cut(0)), tunable=tunable, priority=1)


@pytest.mark.parametrize(
    ("prompt", "rows", "called"),
    [(False, 1, "fast 1"), (False, 3, "fast 8"), (False, 9, "rule"), (True, 3, "fast 64"), (True, 65, "rule")],
)
def test_a_step_runs_by_its_kind_and_its_number_of_rows(prompt: bool, rows: int, called: str) -> None:
    calls: list[str] = []
    prompts = replace(PLAIN, prompt=True)
    entries: dict[Site, tuple[Choice, ...]] = {
        PLAIN: (Choice(1, "fast", {"block": 1}, 1e-6), Choice(8, "fast", {"block": 8}, 1e-6)),
        prompts: (Choice(64, "fast", {"block": 64}, 1e-6),),
    }

    def rule(*operands: Any) -> Tensor:
        calls.append("rule")
        return ops.rope_paged_attention.reference(*operands)  # type: ignore[no-any-return]

    run = tuned_attention((PLAIN, prompts), Choices(entries), KernelTable([recording_kernel(calls)]), rule)
    (operands,) = random_step(replace(PLAIN, prompt=prompt), rows, 70, 1, "cpu")
    assert torch.equal(run(*operands), ops.rope_paged_attention.reference(*operands))
    assert calls == [called]


def test_a_program_runs_attention_as_chosen() -> None:
    calls: list[str] = []
    (operands,) = random_step(PLAIN, 2, 40, 1, "cpu")
    graph = Graph()
    attention = graph.call_function(op_of(PLAIN), tuple(_held(graph, one) for one in operands))
    attention.meta["backend"] = "fast"
    graph.output(attention)
    choices = Choices({PLAIN: (Choice(8, "fast", {"block": 8}, 1e-6),)})
    bound, _ = bind(graph, KernelTable([recording_kernel(calls)]), torch.device("cpu"), choices)
    out = GraphModule(nn.Module(), bound).forward(*_tensors(operands))
    assert torch.equal(out, ops.rope_paged_attention.reference(*operands))
    assert calls == ["fast 8"]


def test_attention_that_nobody_measured_runs_as_ever() -> None:
    kinds = (PLAIN, replace(PLAIN, prompt=True))
    rule = ops.rope_paged_attention.reference
    assert tuned_attention(kinds, Choices(), KernelTable([]), rule) is rule


def test_choices_of_both_survive_json_and_files_of_matmuls_alone_are_read() -> None:
    choices = Choices({kind: (Choice(8, "triton", {"way": "decode"}, 2e-6, "x", 3e-6, 1e-6),) for kind in KINDS})
    choices |= Choices({Matmul(4, 8, "float32"): (Choice(1, "torch", None, 1e-6),)})
    data = json.loads(json.dumps(choices.as_data()))
    assert choices_from({"choices": data}) == choices
    assert choices_from({"matmuls": [one for one in data if "n" in one]}).entries.keys() == {Matmul(4, 8, "float32")}
    assert "0.50 of the floor" in str(choices.entries[PLAIN][0])


def test_what_a_step_is_measured_with() -> None:
    assert attention_rows_of(PLAIN, 5) == (1, 8)
    assert attention_rows_of(replace(PLAIN, prompt=True), 1024) == (64, 256, 1024)
    wide = replace(PLAIN, kv_heads=8, key_width=128, value_width=128, cache="bfloat16")
    assert contexts_of(wide, 64) == (256, 1024)
    assert contexts_of(wide, 256) == (256,), "a cache of a gigabyte is not worth it"
    assert contexts_of(replace(wide, prompt=True), 1024) == (1024,)


def test_a_table_without_configurations_leaves_no_choice() -> None:
    reference = reference_kernel(ops.rope_paged_attention)
    assert not leaves_choice(PLAIN, KernelTable([reference]))
    assert leaves_choice(PLAIN, KernelTable([recording_kernel([]), reference]))


def test_floors() -> None:
    """By hand: bytes over 4,390 GB/s of an H200, or operations over its matrix rate."""
    gpu = load_gpu("h200")
    wide = Attention(32, 8, 128, 128, "bfloat16", "bfloat16", prompt=False, rotary=128)
    assert attention_floor(wide, 64, 8192, gpu) == pytest.approx(64 * 8192 * 4096 / 4.39e12, rel=0.02)
    assert attention_floor(replace(wide, window=1024), 64, 8192, gpu) < attention_floor(wide, 64, 8192, gpu) / 7
    pairs = 4096 * 4097 / 2
    assert attention_floor(replace(wide, prompt=True), 4096, 4096, gpu) == pytest.approx(
        pairs * 32 * 128 * 4 / 796e12, rel=0.02
    )
    assert matmul_floor(Matmul(4096, 4096, "bfloat16"), 1, gpu) == pytest.approx(2 * 4096**2 / 4.39e12, rel=0.02)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("prompt", [False, True])
def test_every_choice_gives_the_right_numbers_and_none_is_wrong(prompt: bool) -> None:
    kind = Attention(8, 2, 128, 128, "float16", "float16", prompt=prompt, rotary=128)

    def nothing(q: Tensor, *_: Any) -> Tensor:
        return torch.zeros_like(q)

    tunable = Tunable(lambda rows, attention: (Cut(1),), lambda _: nothing, Cut)
    wrong = Kernel(ops.rope_paged_attention, "wrong", nothing, priority=100, tunable=tunable)
    table = KernelTable([*builtin_kernels("cuda"), wrong])
    choices = tune_attentions([kind], table, max_rows=8)
    assert {choice.backend for _, choice in choices} == {"triton"}
    assert all(0.0 < choice.floor_fraction < 1.1 for _, choice in choices)
    kinds = replace(kind, prompt=False), replace(kind, prompt=True)
    run = tuned_attention(kinds, choices, table, nothing)
    for rows in (2, 40) if prompt else (1, 5):
        (operands,) = random_step(kind, rows, 300, 1)
        expected = expected_step(kind, operands)
        assert float((run(*operands).float() - expected).norm() / expected.norm()) < 3e-3
