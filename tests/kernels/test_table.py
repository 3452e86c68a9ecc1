from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, Node

from autodeploy import ops
from autodeploy.kernels import Kernel, KernelTable, reference_kernel
from autodeploy.kernels.native.build import BuildError, find_compiler
from autodeploy.kernels.reference import kernels as reference_kernels

LINEAR = ops.linear.overload


def linear_node(dtype: torch.dtype = torch.float32, width: int = 4) -> Node:
    graph, mode = Graph(), FakeTensorMode()
    operands = [graph.placeholder("x"), graph.placeholder("weight")]
    node = graph.call_function(LINEAR, tuple(operands))
    with mode:
        for operand in operands:
            operand.meta["val"] = torch.empty(4, width, dtype=dtype)
        node.meta["val"] = torch.empty(4, 4, dtype=dtype)
    return node


def wide_only(x: torch.Tensor, weight: torch.Tensor) -> str | None:
    return None if x.shape[-1] >= 8 else "too narrow"


def kernel(backend: str, priority: int = 1, declines: object = lambda *_: None) -> Kernel:
    assert callable(declines)
    return Kernel(ops.linear, backend, ops.linear.reference, ("cpu",), (torch.float32,), declines, priority)


def able(table: KernelTable, node: Node, device: str = "cpu") -> list[str]:
    return [one.backend for one in table.able(node, device)]


def test_the_best_kernel_comes_first() -> None:
    table = KernelTable([reference_kernel(ops.linear), kernel("slow"), kernel("fast", priority=2)])
    assert [one.name for one in table] == ["fast.linear", "slow.linear", "torch.linear"]
    assert able(table, linear_node()) == ["fast", "slow", "torch"]


@pytest.mark.parametrize(("dtype", "device"), [(torch.float16, "cpu"), (torch.float32, "cuda")])
def test_reference_serves_other_devices_and_dtypes(dtype: torch.dtype, device: str) -> None:
    table = KernelTable([kernel("fast"), reference_kernel(ops.linear)])
    assert able(table, linear_node(dtype), device) == ["torch"]


def test_a_kernel_that_declines_is_passed_over() -> None:
    table = KernelTable([kernel("fast", declines=wide_only), reference_kernel(ops.linear)])
    assert able(table, linear_node()) == ["torch"]
    assert able(table, linear_node(width=8)) == ["fast", "torch"]


def test_table_is_immutable() -> None:
    table = KernelTable([reference_kernel(ops.linear)])
    longer = table + (kernel("fast"),)  # noqa: RUF005  a table, not a tuple
    assert longer.find(LINEAR, "fast") is not None
    assert table.find(LINEAR, "fast") is None


def test_every_operator_has_its_reference() -> None:
    table = KernelTable(reference_kernels())
    assert all(table.find(op.overload, "torch") for op in ops.OPS)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="no C\\+\\+ compiler: \\$CXX is 'no-such-compiler'"):
        find_compiler()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BuildError, match="none of c"):
        find_compiler()


def test_references_serve_where_the_compiler_fails(tmp_path: Path) -> None:
    broken = tmp_path / "broken-compiler"
    broken.write_text("#!/bin/sh\n[ $1 = --version ] || { echo 'fatal error: no room' >&2; exit 1; }\n")
    broken.chmod(0o755)
    code = "from autodeploy.kernels import builtin_kernels, native\n" + (
        "print(native.why_unavailable()); print({k.backend for k in builtin_kernels('cpu')})"
    )
    environment = {**os.environ, "CXX": str(broken), "AUTODEPLOY_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"the C++ compiler {broken} failed: fatal error: no room\n{{'torch'}}\n"
    assert list((tmp_path / "cache" / "native").iterdir()) == []
