from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.console import Console, RenderableType

from autodeploy.errors import InputError
from autodeploy.inspect import GraphView, Subject
from autodeploy.inspect.changes import show_diff
from autodeploy.inspect.layer import show_layer
from autodeploy.inspect.terminal import show_operation, show_summary, show_tree
from tests.inspect.graphs import optimized

WIDTHS = (80, 200)


def view() -> GraphView:
    return Subject.of_result(optimized()).view


def printed(shown: RenderableType, width: int) -> str:
    """What a pipe gets of it; no line is wider than it should be, and none is cut."""
    out = StringIO()
    Console(file=out, width=width, highlight=False).print(shown)
    text = out.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    assert "\x1b" not in text
    return text


def index_of(name: str) -> int:
    return next(index for index, report in enumerate(optimized().history) if report.name == name)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_tree_has_repeated_layers_once(width: int) -> None:
    lines = printed(show_tree(view()), width).splitlines()
    assert lines[0] == "LlamaForCausalLM for the CPU"
    assert sum("layers 1-2, 2 times" in line for line in lines) == 1
    assert any(line.strip("│├└─ ").startswith("linear qkv_proj  f32[1, T, 128]") for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_summary_counts_the_calls_of_all_layers(width: int) -> None:
    title, heading, *lines = printed(show_summary(view(), width), width).splitlines()
    assert title.rstrip() == "Operators, in a decode step of 1 x 1,024 tokens"
    assert heading.split()[:3] == ["operator", "calls", "weights"]
    assert ("moves" in heading) == (width > 110)
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert rows["rope_paged_attention"][0] == "3"
    assert rows["linear"][0] == "10"  # three a layer, and the logits


@pytest.mark.parametrize("width", WIDTHS)
def test_the_calls_of_a_layer_are_named_as_they_are_in_it(width: int) -> None:
    text = printed(show_layer(Subject.of_result(optimized()), 2, width), width)
    assert text.startswith("Layer 2, one of 2 alike")
    names = [one.names[1] for group in view().root.groups() if group.repeats == 2 for one in group.operations()]
    assert len(names) > 10
    assert [line.split()[0] for line in text.splitlines()[2:] if line[0] != " "] == list(dict.fromkeys(names))
    assert "key_pages_2" in text
    assert "key_pages_1" not in text
    second = text.splitlines()[2]
    assert "add_rms_norm_default_2, " in second  # what layer 1 gives, and not what enters the first of those alike


@pytest.mark.parametrize("width", WIDTHS)
def test_the_diff_tells_of_layers_once_and_keeps_its_marks_clear(width: int) -> None:
    diff = optimized().diff(index_of("page_attention"))
    text = printed(show_diff(diff), width)
    for told in (text, str(diff)):
        assert re.search(r"\[1, T, \d+\]", told)
        assert not re.search(r"\bs\d+\b", told), "sizes are told by what they count"
    assert "@ 2 times" in text
    assert "+ key_pages_0" in text
    assert "and 2 more of its kind" in text
    assert {line[:2] for line in text.splitlines()[1:]} == {"@ ", "+ ", "- ", "  "}
    assert printed(show_diff(optimized().diff(0)), width) == "0: functionalize: nothing changed\n"


def test_texts_with_brackets_are_no_markup() -> None:
    assert "f32[1, T, 128]" in printed(show_operation(view(), "aten.split_with_sizes"), 200) + printed(
        show_layer(Subject.of_result(optimized()), 0, 200), 200
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_an_operator_is_shown_by_node_and_by_name(width: int) -> None:
    called = printed(show_operation(view(), "add_rms_norm"), width)
    assert called.startswith("add_rms_norm is called 6 times")
    first = called.splitlines()[2].split()[0]
    facts = printed(show_operation(view(), first), width)
    assert "model.layers.0.post_attention_layernorm.weight[64]" in facts
    assert "modeling_llama.py:" in facts


def test_what_is_not_there_is_named_with_the_nearest() -> None:
    with pytest.raises(InputError, match="--layer 9: there is no such layer; they are 0 to 2"):
        show_layer(Subject.of_result(optimized()), 9, 80)
    with pytest.raises(InputError, match="did you mean 'add_rms_norm'"):
        show_operation(view(), "add_rms_nrm")
