from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from autodeploy import artifact
from autodeploy.kernels import KernelTable, reference_kernel
from autodeploy.loading import load_program
from autodeploy.ops import OPS
from autodeploy.program import CacheSpec, Program, ProgramSpec, bind, cache_specs
from autodeploy.runtime.model import StepInputs
from autodeploy.testing.families import tiny_model
from autodeploy.weights import MemorySource
from tests.families import Built, build, config_of, error, kernel_table, replay, step_of

TOKENS = [5, 17, 3, 88, 42, 7, 7, 61, 30, 12, 9, 54, 71, 23, 8, 90, 33, 4, 65, 11]
FAMILY = "gemma3_text"  # windows, tied weights, a scaled embedding, norms of heads


@pytest.fixture(scope="module")
def source() -> MemorySource:
    return MemorySource(dict(tiny_model(config_of(FAMILY)).state_dict()))


@pytest.fixture(scope="module")
def built(source: MemorySource) -> Built:
    return build(config_of(FAMILY), source)


@pytest.fixture(scope="module")
def whole(built: Built) -> Tensor:
    return replay(built.program, TOKENS, [len(TOKENS)])


@pytest.mark.parametrize("chunks", [[7, 7, 6], [1] * 20, [16, 4], [3, 1, 16]])
@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_chunks_and_pages_change_nothing(built: Built, whole: Tensor, chunks: list[int], page_size: int) -> None:
    assert error(replay(built.program, TOKENS, chunks, page_size), whole) <= 1e-5


def test_requests_in_one_batch_do_not_meet(built: Built, whole: Tensor) -> None:
    program, page_size = built.program, 4
    other = [token + 1 for token in reversed(TOKENS[:9])]
    alone = replay(program, other, [9], page_size)
    cache = program.new_cache(16, page_size)
    pages = [[1, 3, 5, 7, 9], [8, 2, 4]]  # neither in order nor side by side

    def slots(request: int, start: int, end: int) -> list[int]:
        return [pages[request][at // page_size] * page_size + at % page_size for at in range(start, end)]

    def step(spans: list[tuple[int, int]], prompts: list[list[int]]) -> Tensor:
        rows = [(request, at) for request, (start, end) in enumerate(spans) for at in range(start, end)]
        starts = torch.tensor([0, *(end - start for start, end in spans)]).cumsum(0).int()
        table = torch.zeros(2, 5, dtype=torch.int32)
        for request, held in enumerate(pages):
            table[request, : len(held)] = torch.tensor(held)
        return program.forward(
            StepInputs(
                input_ids=torch.tensor([prompts[request][at] for request, at in rows]),
                position_ids=torch.tensor([at for _, at in rows]),
                query_start=starts,
                context_len=torch.tensor([end for _, end in spans], dtype=torch.int32),
                page_table=table,
                slots=torch.tensor([slot for request, span in enumerate(spans) for slot in slots(request, *span)]),
                logit_rows=starts[1:].long() - 1,
            ),
            cache,
        )

    first = step([(0, 14), (0, 5)], [TOKENS, other])
    second = step([(14, 15), (5, 9)], [TOKENS, other])
    assert error(first, torch.stack((whole[13], alone[4]))) <= 1e-5
    assert error(second, torch.stack((whole[14], alone[8]))) <= 1e-5


def test_only_the_rows_asked_for_are_computed(built: Built, whole: Tensor) -> None:
    step = step_of(TOKENS, 0, 4)
    rows = torch.tensor([19, 0, 7])
    inputs = StepInputs(
        step.input_ids, step.position_ids, step.query_start, step.context_len, step.page_table, step.slots, rows
    )
    logits = built.program.forward(inputs, built.program.new_cache(5, 4))
    assert logits.shape == (3, built.program.vocab_size)
    assert error(logits, whole[rows]) <= 1e-5


def test_references_serve_what_kernels_do(source: MemorySource, whole: Tensor) -> None:
    built = build(config_of(FAMILY), source, prefer="torch")
    backends = {node.meta["backend"] for node in built.graph_module.graph.nodes if "backend" in node.meta}
    assert backends == {"torch"}
    assert error(replay(built.program, TOKENS, [13, 1, 6]), whole) <= 1e-5


def test_a_backend_that_this_machine_lacks_gives_way_to_the_reference(built: Built, whole: Tensor) -> None:
    table = KernelTable([reference_kernel(op) for op in OPS])
    program = program_of(built, table)
    assert error(replay(program, TOKENS, [20]), whole) <= 1e-5


def program_of(built: Built, table: KernelTable) -> Program:
    spec = ProgramSpec(built.program.vocab_size, built.program.max_model_len, cache_specs(built.graph_module.graph))
    return Program(built.graph_module, built.tensors, table, torch.device("cpu"), spec)


def test_a_program_knows_whether_a_graph_can_hold_its_steps(built: Built) -> None:
    references = KernelTable([reference_kernel(op) for op in OPS])
    assert not program_of(built, references).is_capturable  # attention's reference reads the page table
    prompt = KernelTable([replace(kernel, waits=False) for kernel in references])
    assert program_of(built, prompt).is_capturable


def test_weights_are_bound_as_arguments(built: Built) -> None:
    graph, names = bind(built.graph_module.graph, kernel_table(), torch.device("cpu"))
    assert not graph.find_nodes(op="get_attr")
    assert sorted(names) == sorted(built.weights)
    placeholders = [str(node.target) for node in graph.find_nodes(op="placeholder")]
    assert placeholders[-len(names) :] == [f"weight_{index}" for index in range(len(names))]
    assert placeholders.index("key_pages_0") > placeholders.index("logit_rows")


def test_binding_leaves_the_graph_as_it_is(built: Built) -> None:
    before = str(built.graph_module.graph)
    bind(built.graph_module.graph, kernel_table(), torch.device("cpu"))
    assert str(built.graph_module.graph) == before


def test_devices_that_tracing_baked_in_are_replaced() -> None:
    def on_meta(x: Tensor) -> Tensor:
        return x + torch.ones(3, device="meta")

    gm = torch.fx.symbolic_trace(on_meta)
    graph = torch.fx.Graph()
    x = graph.placeholder("input_ids")
    ones = graph.call_function(torch.ops.aten.ones.default, ([3],), {"device": torch.device("meta")})
    graph.output(graph.call_function(torch.ops.aten.add.Tensor, (x, ones)))
    bound, _ = bind(graph, kernel_table(), torch.device("cpu"))
    assert GraphModule(gm, bound)(torch.zeros(3)).tolist() == [1.0, 1.0, 1.0]


def test_the_cache_has_the_shapes_that_the_graph_asks_for(built: Built) -> None:
    caches = cache_specs(built.graph_module.graph)
    assert [one.name for one in caches] == ["key_pages_0", "value_pages_0", "key_pages_1", "value_pages_1"]
    assert set(caches[0].__dict__.items()) >= {("num_heads", 2), ("head_dim", 16), ("dtype", torch.float32)}
    assert [tuple(pages.shape) for pages in built.program.new_cache(7, 4)] == [(7, 2, 4, 16)] * 4
    assert built.program.page_bytes(4) == 4 * (2 * 4 * 16 * 4)


def test_a_spec_survives_its_data() -> None:
    spec = ProgramSpec(96, 64, (CacheSpec("key_pages_0", 2, 16, torch.bfloat16),))
    assert ProgramSpec.from_dict(spec.as_dict()) == spec


def test_an_artifact_gives_the_same_logits(built: Built, source: MemorySource, whole: Tensor, tmp_path: Path) -> None:
    spec = ProgramSpec(built.program.vocab_size, built.program.max_model_len, cache_specs(built.graph_module.graph))
    artifact.save(
        tmp_path / "out",
        name="tiny",
        graph=built.graph_module,
        weights=built.weights,
        source=source,
        config=config_of(FAMILY).to_dict(),
        dtype="float32",
        devices=("cpu",),
        recipe={"runtime": {}},
        history=[report.as_dict() for report in built.history],
        details={"program": spec.as_dict()},
        assets={},
    )
    program = load_program(artifact.load(tmp_path / "out"))
    assert program.max_model_len == built.program.max_model_len
    assert torch.equal(replay(program, TOKENS, [20]), whole)
