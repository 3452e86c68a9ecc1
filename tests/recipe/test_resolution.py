from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, Field

from autodeploy.discovery import discover
from autodeploy.errors import RecipeError
from autodeploy.layers import parse_settings
from autodeploy.pipeline import Stage
from autodeploy.recipe import WORKLOADS, Target, builtin_recipes, read_recipe
from autodeploy.resolution import ResolvedRecipe, resolve


class Pass(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: ClassVar[Stage]
    cleanup: ClassVar[bool] = False
    before: ClassVar[tuple[str, ...]] = ()
    after: ClassVar[tuple[str, ...]] = ()


class Clean(Pass):
    stage = Stage.CLEAN
    cleanup = True


class Fuse(Pass):
    stage = Stage.FUSE
    min_rows: int = Field(default=1, ge=1)


class Runtime(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    page_size: int = Field(default=16, ge=1)
    max_batch_size: int = 256
    max_num_tokens: int = 2048
    prefix_reuse: bool = True


FAKES: dict[Stage, type[Pass]] = {
    **{stage: type(stage.name, (Pass,), {"stage": stage}) for stage in Stage},
    Stage.FUSE: Fuse,
}
CLASSES: dict[str, type[Pass]] = {
    **{one.name: Clean if one.cleanup else FAKES[one.stage] for one in discover().passes.values()},
    "fuse_extra": Fuse,
}
RECIPES = {recipe.name: recipe for recipe in map(read_recipe, builtin_recipes())}
DEFAULT = [name for name, _, _ in RECIPES["default"].entries()]


def with_extra(index: int) -> list[str]:
    return [*DEFAULT[:index], "fuse_extra", *DEFAULT[index:]]


BEHIND_GATE_UP = with_extra(DEFAULT.index("fuse_gate_up") + 1)
BEHIND_FUSE = with_extra(DEFAULT.index("quantize_linears"))
LLAMA = Target("llama", "h100", "balanced")
Write = Callable[[str], str]


def resolved(
    recipe: str = "auto", target: Target = LLAMA, set_values: Mapping[str, Any] | None = None
) -> ResolvedRecipe[Pass, Runtime]:
    return resolve(target, passes=CLASSES, runtime=Runtime, recipes=RECIPES, recipe=recipe, set_values=set_values or {})


def names(result: ResolvedRecipe[Pass, Runtime]) -> list[str]:
    return [name for name, _ in result.passes]


def origin(result: ResolvedRecipe[Pass, Runtime], key: str) -> tuple[str, str]:
    choice = next(choice for choice in result.choices if choice.key == key)
    return choice.origin.layer, choice.origin.where


def refusal(recipe: str = "auto", set_values: Mapping[str, Any] | None = None) -> str:
    with pytest.raises(RecipeError) as error:
        resolved(recipe, set_values=set_values)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_default_pipeline_is_in_order() -> None:
    assert names(resolved()) == DEFAULT


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("gpu", ["cpu", "h200"])
def test_every_shipped_recipe_resolves(gpu: str, workload: str) -> None:
    assert names(resolved(target=Target("llama", gpu, workload))) == DEFAULT


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_shipped_recipe_can_be_named(name: str) -> None:
    assert names(resolved(name)) == DEFAULT


def test_later_layers_win_and_say_so() -> None:
    target = Target("llama", "cpu", "latency")
    result = resolved(target=target, set_values={"runtime.page_size": 8})
    assert result.runtime == Runtime(page_size=8, max_batch_size=16, max_num_tokens=256)
    assert origin(result, "runtime.page_size")[0] == "--set"
    assert origin(result, "runtime.max_batch_size")[0] == "workload latency"
    assert origin(result, "runtime.prefix_reuse")[0] == "default"
    assert origin(result, "runtime.max_batch_size")[1].endswith("latency.yaml:7")


def test_a_user_file_lies_over_what_matches(write: Write) -> None:
    file = write(
        "version: 1\nname: mine\npasses:\n- fuse_gate_up: {min_rows: 4}\n- fuse_extra\nruntime: {page_size: 32}\n"
    )
    result = resolved(file, Target("llama", "cpu", "balanced"))
    assert names(result) == BEHIND_GATE_UP
    assert dict(result.passes)["fuse_gate_up"] == Fuse(min_rows=4)
    assert result.runtime == Runtime(page_size=32, max_batch_size=64, max_num_tokens=512)
    assert origin(result, "passes.fuse_gate_up.min_rows") == ("recipe mine", f"{file}:4")


def test_a_file_that_extends_nothing_is_the_whole_pipeline(write: Write) -> None:
    file = write(
        "version: 1\nname: mine\nextends: none\n"
        "passes: [clean_graph, fuse_qkv, clean_graph, fuse_qkv: {min_rows: 2}, page_attention]\n"
    )
    result = resolved(file)
    assert names(result) == ["clean_graph", "fuse_qkv", "clean_graph", "fuse_qkv", "page_attention"]
    assert [model.min_rows for _, model in result.passes if isinstance(model, Fuse)] == [1, 2]
    assert result.runtime == Runtime()


def test_a_pass_can_be_removed(write: Write) -> None:
    without = [name for name in DEFAULT if name != "fuse_gate_up"]
    assert names(resolved(set_values=parse_settings(["passes.fuse_gate_up=off"]))) == without
    assert names(resolved(write("version: 1\nname: mine\npasses: [fuse_gate_up: off]\n"))) == without


def test_a_pass_can_be_added_by_set() -> None:
    assert names(resolved(set_values={"passes.fuse_extra": True})) == BEHIND_FUSE


def test_an_unknown_architecture_falls_back_with_a_sentence() -> None:
    result = resolved(target=Target("brand_new", "h100", "balanced"))
    assert names(result) == DEFAULT
    assert result.notes == ("no recipe knows the architecture 'brand_new'; it gets the default pipeline",)
    assert not resolved().notes


def test_the_fingerprint_follows_the_values_alone(write: Write) -> None:
    assert resolved().fingerprint == resolved("default").fingerprint
    file = write("version: 1\nname: mine\nruntime: {page_size: 8}\n")
    assert resolved(file).fingerprint == resolved(set_values={"runtime.page_size": 8}).fingerprint
    assert resolved(file).fingerprint != resolved().fingerprint


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("version: 1\nname: mine\npases: []\n", 3, "unknown key 'pases'; did you mean 'passes'?"),
        ("version: 2\nname: mine\n", 1, "version: input should be 1, not 2"),
        ("name: mine\n", 1, "'version' is missing"),
        ("version: 1\nname: mine\nmatch:\n  gpus: h100\n", 4, "unknown key 'match.gpus'; did you mean 'gpu'?"),
        ("version: 1\nname: mine\npasses:\n- fuse_qk\n", 4, "there is no pass 'fuse_qk'; did you mean 'fuse_qkv'?"),
        (
            "version: 1\nname: mine\npasses:\n- fuse_qkv:\n    min_row: 2\n",
            5,
            "unknown key 'min_row'; did you mean 'min_rows'?",
        ),
        ("nam: mine\n", 1, "unknown key 'nam'; did you mean 'name'?"),
        ("version: 1\nname: mine\npasses: {a: off}\n", 3, "passes: input should be a list, not {'a': False}"),
        ("version: 1\nname: mine\npasses:\n- fuse_qkv: [1]\n", 4, "fuse_qkv is `on`, `off` or has options"),
        ("version: 1\nname: mine\npasses:\n- 3\n", 4, "one pass an entry"),
        ("version: 1\nname: mine\nruntime:\n  page_size: big\n", 4, "input should be a valid integer, not 'big'"),
        ("version: 1\nname: mine\nplan: {contxt: 3}\n", 3, "unknown key 'contxt'; did you mean 'context'?"),
        ("version: 1\nname: mine\nmatch: {workload: latncy}\n", 3, "no workload 'latncy'; did you mean 'latency'?"),
        (
            "version: 1\nname: mine\npasses:\n- fuse_qkv: {min_rows: 0}\n",
            4,
            "min_rows: input should be greater than or equal to 1, not 0",
        ),
        (
            "version: 1\nname: mine\nruntime:\n  page_sise: 8\n",
            4,
            "unknown key 'page_sise'; did you mean 'page_size'?",
        ),
        (
            "version: 1\nname: mine\npasses: [page_attention,\n fuse_qkv]\n",
            4,
            "fuse_qkv is of stage FUSE and can't follow page_attention of stage CACHE; put it before",
        ),
        ("version: 1\nname: mine\nextends: mine2\n", 3, "no recipe is called 'mine2'"),
        ("version: 1\nversion: 1\n", 2, "'version' appears twice"),
        ("version: 1\nname: [\n", 3, "not valid YAML"),
        ("version: 1\nname: !!python/object:os.system x\n", 2, "is not plain data"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_its_line(write: Write, text: str, line: int, sentence: str) -> None:
    file = write(text)
    message = refusal(file)
    assert message.startswith(f"{file}:{line}: ")
    assert sentence in message


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("runtime.page_sise=8", "did you mean 'page_size'?"),
        ("runtime.page_size=big", "page_size: input should be a valid integer"),
        ("passes.fuse_qk=off", "--set passes.fuse_qk=off: there is no pass 'fuse_qk'; did you mean 'fuse_qkv'?"),
        ("passes.fuse_qkv.min_row=2", "did you mean 'min_rows'?"),
        ("passes.fuse_extra.min_rows=2", "the pipeline has no fuse_extra"),
        ("passes.fuse_qkv=2", "a pass is `on` or `off`"),
        ("page_size=8", "a key is runtime.KEY"),
        ("runtime.page_size", "a key and a value are expected"),
        ("runtime.page_size=[", "is not a YAML value"),
    ],
)
def test_a_mistake_in_set_is_named(setting: str, sentence: str) -> None:
    with pytest.raises(RecipeError) as error:
        resolved(set_values=parse_settings([setting]))
    assert str(error.value).startswith("--set")
    assert sentence in str(error.value)


def test_unknown_names_get_the_nearest() -> None:
    assert "did you mean 'latency'?" in refusal("latncy")
    with pytest.raises(RecipeError, match="did you mean 'throughput'"):
        resolved(target=Target("llama", "h100", "troughput"))


def test_a_missing_file_is_named() -> None:
    assert "nowhere.yaml does not exist" in refusal("nowhere.yaml")


def test_a_missing_file_gets_the_nearest_of_its_folder(write: Write) -> None:
    file = write("version: 1\nname: mine\n")
    assert f"did you mean {Path(file).name!r}?" in refusal(file.replace(".yaml", "e.yaml"))


def test_a_condition_may_use_the_other_names_of_a_gpu(write: Write) -> None:
    recipe = read_recipe(Path(write("version: 1\nname: mine\nmatch: {gpu: [a100, dream]}\n")))
    assert recipe.data.match.gpu == ("a100-80", "dream")
