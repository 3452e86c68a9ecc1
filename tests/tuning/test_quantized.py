"""What quantized projections are called in the tuner, and what it times them with."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch.fx import Graph

from autodeploy import ops
from autodeploy.kernels import Kernel, KernelTable, reference_kernel
from autodeploy.kernels.storage import Storage
from autodeploy.kernels.table import Tunable
from autodeploy.tuning import Choice, Choices, Matmul, matmuls_of
from autodeploy.tuning.operands import expected_result, random_operands
from autodeploy.tuning.tune import candidates_of

MATMULS = [
    Matmul(64, 256, "float32", storage=Storage("int8", "float32", 64, 1)),
    Matmul(64, 256, "float32", True, "silu", Storage("int4", "float32", 64, 2)),
    Matmul(64, 256, "bfloat16", True, storage=Storage("int4", "bfloat16", 64, 4, "uint8")),
    Matmul(64, 256, "float32", storage=Storage("nvfp4", "float8_e4m3fn", 64, 16, has_global_scale=True)),
    Matmul(64, 256, "float32", storage=Storage("mxfp4", "uint8", 64, 8)),
    Matmul(64, 256, "bfloat16", storage=Storage("fp8", "float32", 64, 1, x_groups=1)),
    Matmul(64, 256, "bfloat16", True, "silu", Storage("int8", "float32", 1, 1, x_groups=0)),
    Matmul(64, 256, "bfloat16", storage=Storage("fp8", "float32", 1, 2, x_groups=2)),
    Matmul(64, 256, "float32", has_residual=True),
]


@pytest.mark.parametrize("matmul", MATMULS, ids=str)
def test_operands_are_those_of_the_projection(matmul: Matmul) -> None:
    """A call with the operands is of the matmul that they were made for, and gives numbers of a usual size."""
    first, second = random_operands(matmul, 3, 2, "cpu")
    graph = Graph()
    node = graph.call_function(matmul.op, tuple(_held(graph, one) for one in first))
    node.meta["val"] = matmul.op(*first)
    assert matmuls_of(graph) == (matmul,)
    assert not torch.equal(expected_result(matmul, first), expected_result(matmul, second))
    assert 0.001 < float(expected_result(matmul, first).std()) < 1.0


def _held(graph: Graph, operand: Any) -> Any:
    """A tensor as the graph's input, and anything else as it is."""
    if not isinstance(operand, torch.Tensor):
        return operand
    node = graph.placeholder("x")
    node.meta["val"] = operand
    return node


def test_choices_survive_json_and_older_ones_are_of_plain_weights() -> None:
    choices = Choices({matmul: (Choice(8, "triton", {"way": "skinny"}, 1e-6),) for matmul in MATMULS})
    data = json.loads(json.dumps(choices.as_data()))
    assert Choices.from_data(data) == choices
    older = [{key: value for key, value in one.items() if key != "storage"} for one in data]
    assert Matmul(64, 256, "float32") in Choices.from_data(older).entries


def test_configurations_know_how_the_weight_is_stored() -> None:
    asked = []

    def configs(rows: int, n: int, k: int, dtype: torch.dtype, storage: Storage) -> tuple[Storage, ...]:
        asked.append((rows, n, k, dtype))
        return (storage,)

    kernel = Kernel(ops.packed_linear, "fast", print, ("cuda",), tunable=Tunable(configs, lambda _: print, Storage))
    table = KernelTable([kernel, reference_kernel(ops.packed_linear)])
    (only,) = candidates_of(MATMULS[0], 4, table)
    assert only.config == MATMULS[0].storage
    assert asked == [(4, 64, 256, torch.float32)]
    (alone,) = candidates_of(MATMULS[0], 4, KernelTable([reference_kernel(ops.packed_linear)]))
    assert alone.backend == "torch"


def test_weight_bytes() -> None:
    assert [matmul.weight_bytes for matmul in MATMULS[:2]] == [64 * 256, 64 * 128]
    assert Matmul(64, 256, "bfloat16").weight_bytes == 64 * 512
