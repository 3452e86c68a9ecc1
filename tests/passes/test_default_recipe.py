"""Every pass of the default recipe, on graphs of many families, against the graph before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter
from torch.fx.node import map_aggregate

from autodeploy import ops
from autodeploy.export import trace_model
from autodeploy.graph.attributes import set_attribute
from autodeploy.kernels import reference_kernel
from autodeploy.pipeline import Context, Pass, PassReport, run_passes
from autodeploy.testing.families import FAMILIES, HAND_WRITTEN_FAMILIES, tiny_model
from autodeploy.weights import MemorySource
from tests.families import REFERENCES, config_of, context_of, default_passes, step_of

QUICK = ("llama", "gemma3_text", "gpt2", "stablelm", "cohere", "opt")
TOKENS = [5, 17, 3, 88, 42, 7, 7, 61, 30, 12]
PAGE_SIZE = 4
CPU, META = torch.device("cpu"), torch.device("meta")
families = pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)


class Subject:
    """A traced family, the weights for its graph, and the numbers that the graph computes."""

    def __init__(self, family: str, fuel: int | None = None) -> None:
        self.config = config_of(family)
        self.source = MemorySource(dict(tiny_model(self.config).state_dict()))
        traced = trace_model(self.config, torch.float32)
        self.graph_module: GraphModule = traced.graph_module
        self.context: Context = context_of(traced, self.source, kernels=REFERENCES, fuel=fuel)

    def run(self, passes: list[Pass]) -> list[PassReport]:
        return run_passes(self.graph_module, passes, self.context)

    def logits(self) -> Tensor:
        """What the graph gives for the tokens as one prefill, with its weights as the plan reads them."""
        for name, tensor in self.context.weights.read(self.source).items():
            set_attribute(self.graph_module, name, tensor)
        step = step_of(TOKENS, 0, PAGE_SIZE)
        given = {field: getattr(step, field) for field in step.__dataclass_fields__}
        rows = {name: given[name].unsqueeze(0) for name in ("input_ids", "position_ids")}
        placeholders = self.graph_module.graph.find_nodes(op="placeholder")
        values = [{**given, **rows}.get(str(node.target), pages(node.meta["val"])) for node in placeholders]
        with torch.no_grad():
            logits: Tensor = OnCpu(self.graph_module).run(*values)
        return logits

    def counts(self) -> Mapping[str, int]:
        calls = (str(node.target) for node in self.graph_module.graph.nodes if node.op == "call_function")
        return Counter(calls)


class OnCpu(Interpreter):
    """Runs a graph that was traced on the meta device."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = map_aggregate((args, kwargs), lambda value: CPU if value == META else value)
        return super().call_function(target, args, dict(kwargs))


def pages(like: Tensor) -> Tensor:
    """An empty cache for an input that holds pages."""
    if like.dim() != 4:
        return torch.empty(0)
    return torch.zeros(-(-len(TOKENS) // PAGE_SIZE), like.shape[1], PAGE_SIZE, like.shape[3])


@pytest.mark.slow
@pytest.mark.parametrize("family", HAND_WRITTEN_FAMILIES)
def test_each_pass_keeps_the_numbers_of_attention_written_by_hand(family: str) -> None:
    test_each_pass_keeps_the_numbers_as_it_declares(family)


@families
def test_each_pass_keeps_the_numbers_as_it_declares(family: str) -> None:
    subject = Subject(family)
    before = subject.logits()
    for one in default_passes(subject.config):
        subject.run([one])
        after = subject.logits()
        if one.exact:
            assert torch.equal(after, before), one.name
        else:
            assert float((after - before).norm() / before.norm()) <= one.tolerance, one.name
        before = after


RMS, LAYER = "autodeploy.rms_norm.default", "autodeploy.layer_norm.default"
NORMS: Mapping[str, tuple[str, int]] = {
    "cohere": (LAYER, 3),
    "gemma2": (RMS, 9),
    "gemma3_text": (RMS, 13),
    "gpt2": (LAYER, 5),
    "gpt_neox": (LAYER, 5),
    "olmo2": (RMS, 9),
    "opt": (LAYER, 5),
    "phi": (LAYER, 3),
    "qwen3": (RMS, 9),
    "stablelm": (LAYER, 5),
    "starcoder2": (LAYER, 5),
}
"""The norm of each family and how many there are; two in each of two layers and one at the end where it is not said."""

ADDED = {RMS: "autodeploy.add_rms_norm.default", LAYER: "autodeploy.add_layer_norm.default"}
FUSED_NORMS: Mapping[str, int] = {"cohere": 2, "gpt2": 5, "gpt_neox": 2, "olmo2": 1, "opt": 5, "phi": 2}
"""How many norms are of a sum: fewer where branches run side by side or end in norms."""

UNGATED = ("gpt2", "gpt_neox", "opt", "phi", "starcoder2")
ROTATED: Mapping[str, int] = {"gpt2": 0, "opt": 0, "smollm3": 2}
FUSED_BEFORE = ("gpt2", "gpt_neox", "phi3")
LEFT = (
    "aten.linear",
    "aten.addmm",
    "aten.layer_norm",
    "aten.rms_norm",
    "aten.rsqrt",
    "aten.silu",
    "aten.gelu",
    "aten.tanh",
    "aten.sigmoid",
    "aten.mean",
    "aten.relu",
    "aten.stack",
)
FORMS = ("aten.to.dtype_layout", "aten.alias", "aten.detach", "aten.view", "aten.dropout", "aten.neg", "aten.pow")


@families
def test_every_layer_becomes_canonical_operators(family: str) -> None:
    subject = Subject(family)
    reports = {report.name: report for report in subject.run(default_passes(subject.config))}
    counts = subject.counts()
    norm, num_norms = NORMS.get(family, (RMS, 5))
    assert counts["autodeploy.paged_attention.default"] == 2
    assert counts[norm] + counts[ADDED[norm]] == num_norms
    assert counts[ADDED[norm]] == reports["fuse_residual_norm"].matches == FUSED_NORMS.get(family, 4)
    assert counts["autodeploy.rope.default"] == ROTATED.get(family, 4)
    gated = "linear_activation" if family in UNGATED else "gated_activation"
    assert counts[f"autodeploy.{gated}.default"] == 2
    linears = counts["autodeploy.linear.default"] + counts["autodeploy.linear_activation.default"]
    assert linears == 2 * 4 + 1  # qkv, output, up (with the gate), down; the head
    assert reports["fuse_qkv"].matches == (0 if family in FUSED_BEFORE else 2)
    assert not [target for target in counts if target.startswith((*LEFT, *FORMS))]


def test_a_device_with_kernels_for_more_gets_larger_operators() -> None:
    fused = (ops.rope_paged_attention, ops.gated_linear)
    subject, plain = Subject("llama"), Subject("llama")
    subject.context.kernels += [replace(reference_kernel(op), backend="fast", priority=1) for op in fused]
    reports = {report.name: report for report in subject.run(default_passes(subject.config))}
    plain.run(default_passes(plain.config))
    counts = subject.counts()
    for op, name in zip(fused, ("fuse_rope_cache", "fuse_gated_linear"), strict=True):
        assert counts[str(op.overload)] == reports[name].matches == 2
    for inner in ("rope", "paged_attention", "gated_activation"):
        assert counts[f"autodeploy.{inner}.default"] == 0
    wanted = plain.logits()
    assert float((subject.logits() - wanted).norm() / wanted.norm()) <= 1e-5


def test_fuel_is_for_all_passes_together() -> None:
    unlimited = Subject("llama")
    total = sum(report.matches for report in unlimited.run(default_passes(unlimited.config)))
    wanted = unlimited.logits()
    for fuel in (0, 1, 20, 60, 75, 90, total):
        subject = Subject("llama", fuel)
        reports = subject.run(default_passes(subject.config)[:-7])  # up to the cache: a program needs all of it
        assert sum(report.matches for report in reports) <= fuel
        got = subject.logits()
        assert float((got - wanted).norm() / wanted.norm()) <= 1e-5


def test_without_fuel_the_graph_stays_as_it_was() -> None:
    subject = Subject("llama", fuel=0)
    before = subject.counts()
    assert sum(report.matches for report in subject.run(default_passes(subject.config))) == 0
    assert subject.counts() == before


def test_reports_say_what_each_pass_did() -> None:
    subject = Subject("stablelm")
    passes = default_passes(subject.config)
    reports = subject.run(passes)
    assert [report.name for report in reports] == [one.name for one in passes]
    assert [report.nodes_before for report in reports[1:]] == [report.nodes_after for report in reports[:-1]]
    first = reports[1].as_dict()
    assert (first["name"], first["stage"], first["options"], first["misses"]) == ("clean_graph", "CLEAN", {}, [])
    assert first["matches"] > 0
    assert first["seconds"] > 0
    assert reports[-1].options == {"prefer": None}


def test_what_could_not_be_fused_is_explained() -> None:
    subject = Subject("gpt2")  # one projection, split into three
    reports = {report.name: report for report in subject.run(default_passes(subject.config))}
    assert [miss.reason for miss in reports["fuse_qkv"].misses] == ["not all are projections"] * 2
    assert "fuse_qkv at attention" in reports["fuse_qkv"].as_dict()["misses"][0]
