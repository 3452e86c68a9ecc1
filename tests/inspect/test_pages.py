from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autodeploy as ad
from autodeploy.bench.ablation import Ablation, PassWorth
from autodeploy.bench.measure import Load
from autodeploy.cost import StepShape
from autodeploy.errors import InputError
from autodeploy.inspect import (
    Page,
    Subject,
    Worth,
    predict_worths,
    view,
    view_diff,
    view_graph,
    view_memory,
    view_pipeline,
    view_roofline,
    with_measured,
)
from autodeploy.inspect.diff_page import find_marks
from autodeploy.inspect.graph_page import open_at_first
from autodeploy.inspect.memory import moments, portions
from autodeploy.inspect.roofline import find_spots, label_dots
from autodeploy.inspect.subject import DECODE
from tests.inspect.graphs import optimized, traced
from tests.inspect.html import Strict, assert_self_contained

MOST_BYTES = 2_000_000


def html_of(one: Any) -> str:
    text: str = one._repr_html_()
    return text


def index_of(name: str) -> int:
    return next(index for index, report in enumerate(optimized().history) if report.name == name)


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_everything_draws_itself_without_help_from_outside() -> None:
    result = optimized()
    drawn = (traced(), result, result.history[index_of("fuse_qkv")], result.diff(index_of("fuse_qkv")))
    for one in drawn:
        assert_self_contained(html_of(one))
    for page in (view_pipeline(result), view_roofline(result), view_memory(result), view(result)):
        assert_self_contained(page.document())
        assert len(page.document()) < MOST_BYTES


def test_many_layers_take_no_more_room_than_few() -> None:
    few, many = (len(view_graph(optimized(layers)).document()) for layers in (3, 9))
    assert many < 1.1 * few


def test_two_outputs_of_one_notebook_share_no_names() -> None:
    Strict(html_of(traced()) + html_of(traced()) + html_of(optimized()) + html_of(optimized()))


def test_a_page_is_saved_as_a_file(tmp_path: Path) -> None:
    file = view_graph(traced()).save(tmp_path / "graph.html")
    text = file.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "LlamaForCausalLM, traced" in Strict(text).texts


def test_a_drawing_tells_what_each_operator_is() -> None:
    data = data_of(html_of(optimized()))
    (note,) = (one for one in data["notes"].values() if one["title"] == "add_rms_norm_default")
    rows = dict(note["rows"])
    assert rows["operator"] == "add_rms_norm"
    assert rows["module"] == "model.layers.0.post_attention_layernorm"
    assert rows["source"].startswith("modeling_llama.py:")
    assert rows["kernel"] == "native"
    assert rows["device"] == "cpu"
    assert rows["predicted"].endswith("µs")
    (norm,) = (one for one in data["notes"].values() if "add_rms_norm_default_2" in one["names"])
    assert dict(norm["rows"])["stands for"].startswith("2 nodes, ")


def test_operators_are_coloured_by_what_is_known() -> None:
    assert data_of(html_of(optimized()))["colours"].keys() == {"kind", "dtype", "kernel", "device", "cost"}
    plain = data_of(view_graph(optimized().graph_module)._repr_html_())["colours"]
    assert plain.keys() == {"kind", "dtype", "kernel"}
    kinds = dict(reversed(pair) for pair in plain["kind"]["legend"])
    assert kinds["matmul"] != kinds["attention"]


def test_the_layers_that_repeat_are_open_at_first() -> None:
    root = Subject.of_result(optimized()).view.root
    opened = {group.label for group in root.groups() if group.id in open_at_first(root)}
    assert {"layers 1-2", "self_attn", "mlp"} <= opened
    assert not opened & {"inputs", "layer 0", "rotary_emb"}


def test_texts_of_a_model_cannot_become_html() -> None:
    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean() + x.sum()  # </script><b>

    html = html_of(ad.trace(Mean(), torch.randn(3)))
    assert "</script><b>" not in html
    read = Strict(html)
    assert not [one for one in read.attributes if one[0] == "b" and one[1] == "x"]
    assert "\\u003c/script" in html


def test_a_diff_marks_what_is_new_gone_or_reads_something_else() -> None:
    diff = optimized().diff(index_of("fuse_qkv"))
    assert diff.graphs is not None
    before, after = diff.graphs
    marked = {}
    for name, graph, other in (("removed", before, after), ("added", after, before)):
        view = Subject("", graph.owning_module or optimized().graph_module).view
        marks = find_marks(view, graph, other, name)
        marked[name] = sorted({one.label for one in view.operations() if marks.get(one.id) == name})
    assert marked["removed"] == ["k_proj", "q_proj", "v_proj"]
    assert "qkv_proj" in marked["added"]


def test_regions_that_differ_in_their_layer_alone_are_told_once() -> None:
    diff = optimized().diff(index_of("fuse_qkv"))
    assert [times for times, _ in diff.regions] == [1, 2]  # the first layer reads the embedding itself
    assert len(diff.removed) > len([line for _, lines in diff.regions for line in lines if line.startswith("-")])
    assert "2 times" in Strict(view_diff(diff)._repr_html_()).texts


def test_a_pass_that_changed_nothing_says_so() -> None:
    diff = optimized().diff(0)
    assert diff.graphs is not None
    assert "Nothing changed." in "".join(Strict(html_of(diff)).texts)


def test_the_timeline_has_every_pass_and_what_it_is_worth() -> None:
    result = optimized()
    index = index_of("fuse_gate_up")
    text = "".join(Strict(view_pipeline(result, {index: Worth(4.96, 5.2)})._repr_html_()).texts)
    assert all(report.name in text for report in result.history)
    assert "+5.0 %" in text
    assert "+5.2 %" in text


def test_the_worth_of_a_pass_is_predicted_and_stands_beside_what_was_measured() -> None:
    worths = predict_worths(optimized())
    index = index_of("canonicalize_norms")
    predicted = worths[index].predicted
    assert predicted is not None
    assert predicted > 1
    assert index_of("page_attention") not in worths  # without it there is nothing to serve
    row = PassWorth(index, "canonicalize_norms", 7, worth_percent=20.0)
    both = with_measured(worths, Ablation(Load(1, 4, 4), 9, (row,)))
    assert both[index] == Worth(predicted, 20.0)


def test_the_roofline_has_the_operators_of_a_step() -> None:
    subject = Subject.of_result(optimized())
    spots = find_spots(subject, DECODE)
    assert [spot.seconds for spot in spots] == sorted((spot.seconds for spot in spots), reverse=True)
    (down,) = (spot for spot in spots if spot.module == "model.layers.*.mlp.down_proj")
    assert (down.operator, down.calls) == ("linear", 3)
    assert down.num_flops == 3 * 2 * 64 * 80
    (longer,) = (
        spot for spot in find_spots(subject, StepShape(1, 32, 32)) if spot.module == "model.layers.*.mlp.down_proj"
    )
    assert longer.num_flops == 32 * down.num_flops
    assert longer.intensity > down.intensity


def test_labels_of_a_plot_cover_neither_dots_nor_each_other() -> None:
    apart = [(1, 100.0, 50.0), (2, 100.0, 200.0), (3, 300.0, 50.0)]
    assert label_dots(apart) == [("1", 100.0, 50.0), ("2", 100.0, 200.0), ("3", 300.0, 50.0)]
    crowded = [(1, 100.0, 50.0), (2, 104.0, 52.0), (3, 130.0, 54.0), (4, 165.0, 55.0)]
    assert [text for text, _, _ in label_dots(crowded)] == ["1, 2, 3, 4"]


def test_the_memory_plan_adds_up() -> None:
    from autodeploy.cost import fit_memory

    subject = Subject.of_result(optimized())
    assert subject.model is not None
    assert subject.gpu is not None
    fit = fit_memory(subject.gpu, subject.model, subject.model.weight_bytes(), 8, 64)
    assert sum(one.share for one in portions(fit)) == pytest.approx(1)
    curve = moments(subject, StepShape(1, 64, 64))
    assert max(one.num_bytes for one in curve) == subject.model.peak_bytes(StepShape(1, 64, 64))
    assert [one.name for one in curve][-1] == "linear_default"


def test_what_is_not_known_is_said_and_not_drawn() -> None:
    page: Page = view_roofline(traced())
    assert "No device is known" in "".join(Strict(page._repr_html_()).texts)
    page = view_memory(traced())
    assert "no plan for its memory" in "".join(Strict(page._repr_html_()).texts)


def test_a_module_has_no_steps_to_predict() -> None:
    result = ad.optimize(ad.trace(nn.Linear(4, 4), torch.randn(2, 4)), gpu="cpu")
    assert_self_contained(html_of(result))
    with pytest.raises(InputError, match="no device is known"):
        predict_worths(result)
