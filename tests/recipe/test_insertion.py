from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict

from autodeploy.errors import RecipeError
from autodeploy.insertion import anchor_problem, anchors, insert_passes
from autodeploy.pipeline import Stage
from autodeploy.recipe import Target, builtin_recipes, read_recipe
from autodeploy.resolution import ResolvedRecipe, resolve
from autodeploy.runtime.settings import RuntimeSettings

LISTED = ["clean", "norms", "mlps", "clean", "qkv", "gate_up", "rows", "clean", "kernels"]


class Step(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: ClassVar[Stage]
    cleanup: ClassVar[bool] = False
    before: ClassVar[tuple[str, ...]] = ()
    after: ClassVar[tuple[str, ...]] = ()
    width: int = 1


def step(stage: Stage, **members: Any) -> type[Step]:
    return type("Step", (Step,), {"stage": stage, "__annotations__": {}, "__module__": __name__, **members})


PASSES = {
    "clean": step(Stage.CLEAN, cleanup=True),
    "norms": step(Stage.CANONICALIZE),
    "mlps": step(Stage.CANONICALIZE),
    "qkv": step(Stage.FUSE),
    "gate_up": step(Stage.FUSE),
    "rows": step(Stage.CACHE),
    "kernels": step(Stage.LOWER),
}


def inserted(*off: str, **more: type[Step]) -> list[str]:
    return [place.name for place in insert_passes(LISTED, {**PASSES, **more}, off)]


def test_without_anchors_the_list_stays_as_it_is() -> None:
    assert inserted(mine=step(Stage.FUSE)) == LISTED


@pytest.mark.parametrize(
    ("mine", "behind", "in_front_of"),
    [
        (step(Stage.FUSE, after=("qkv",)), "qkv", "gate_up"),
        (step(Stage.FUSE, before=("gate_up",)), "qkv", "gate_up"),
        (step(Stage.CANONICALIZE, after=("mlps",)), "mlps", "clean"),
        (step(Stage.LOWER, before=("kernels",)), "clean", "kernels"),
        # An anchor of an earlier stage: first in its own stage, behind the clean-up that ends the stage before.
        (step(Stage.FUSE, after=("norms",)), "clean", "qkv"),
        (step(Stage.QUANTIZE, after=("norms",), before=("kernels",)), "gate_up", "rows"),
        (step(Stage.FUSE, after=("norms", "gate_up")), "gate_up", "rows"),
    ],
)
def test_a_pass_stands_beside_its_anchor_as_its_stage_allows(mine: type[Step], behind: str, in_front_of: str) -> None:
    order = inserted(mine=mine)
    index = order.index("mine")
    assert (order[index - 1], order[index + 1]) == (behind, in_front_of)
    assert [name for name in order if name != "mine"] == LISTED


def test_a_clean_up_stands_at_any_stage() -> None:
    assert inserted(tidy=step(Stage.CLEAN, cleanup=True, after=("rows",)))[6:8] == ["rows", "tidy"]


def test_of_a_pass_that_is_listed_twice_the_one_at_the_stage_is_meant() -> None:
    order = inserted(mine=step(Stage.CANONICALIZE, after=("clean",)))
    assert order.index("mine") == 4  # behind the second, which ends CANONICALIZE
    assert inserted(mine=step(Stage.FUSE, before=("clean",))).index("mine") == 6  # in FUSE still


def test_a_pass_stays_out_of_a_pipeline_without_its_anchor() -> None:
    other = {"rotary": step(Stage.CANONICALIZE), "mine": step(Stage.FUSE, after=("qkv", "rotary"))}
    assert inserted(**other) == LISTED
    assert inserted("mine", mine=step(Stage.FUSE, after=("qkv",))) == LISTED


def test_stage_and_then_name_decide_between_two() -> None:
    late = step(Stage.FUSE, after=("gate_up",))
    order = inserted(b=late, a=late, z=step(Stage.FUSE, after=("gate_up",)))
    assert order[6:9] == ["a", "b", "z"]


def test_an_anchor_may_be_inserted_itself() -> None:
    first, second = step(Stage.FUSE, after=("qkv",), before=("a",)), step(Stage.FUSE, after=("z",))
    assert inserted(a=second, z=first)[4:7] == ["qkv", "z", "a"]


def test_passes_that_only_name_each_other_end_their_stage() -> None:
    order = inserted(a=step(Stage.FUSE, after=("z",)), z=step(Stage.FUSE, before=("a",)))
    assert order[5:9] == ["gate_up", "z", "a", "rows"]


def test_a_cycle_names_the_passes_in_it() -> None:
    with pytest.raises(RecipeError, match=r"pass 'a' has no place: .*, a → b → a; --set passes\.a=off"):
        inserted(a=step(Stage.FUSE, after=("qkv", "b")), b=step(Stage.FUSE, after=("a",)))
    with pytest.raises(RecipeError, match=r"'mine' has no place: .*, mine → qkv → gate_up → mine"):
        inserted(mine=step(Stage.FUSE, after=("gate_up",), before=("qkv",)))


@pytest.mark.parametrize(
    ("mine", "reason"),
    [
        (step(Stage.FUSE, after=("qvk",)), "runs after 'qvk', which is no pass; did you mean 'qkv'?"),
        (step(Stage.FUSE, before=("norms",)), "of stage FUSE cannot run before 'norms' of stage CANONICALIZE"),
        (step(Stage.FUSE, after=("kernels",)), "of stage FUSE cannot run after 'kernels' of stage LOWER"),
        (step(Stage.FUSE, after=("norms", "clean"), before=("clean", "rows")), None),
    ],
)
def test_anchors_that_fit_no_pipeline(mine: type[Step], reason: str | None) -> None:
    found = anchor_problem(mine, PASSES)
    assert found == reason or (reason is not None and found is not None and found.endswith(reason))


MINE = {
    "clean_graph": step(Stage.CLEAN, cleanup=True),
    **{f"canonicalize_{name}": step(Stage.CANONICALIZE) for name in ("linears", "norms", "rotary", "mlps")},
    "fuse_qkv": step(Stage.FUSE),
    "fuse_gate_up": step(Stage.FUSE),
    "choose_kernels": step(Stage.LOWER),
    "mine": step(Stage.FUSE, after=("fuse_qkv",)),
}


def resolved(recipe: str, **values: object) -> ResolvedRecipe[Step, RuntimeSettings]:
    return resolve(
        Target("llama", "h100", "balanced"),
        passes=MINE,
        runtime=RuntimeSettings,
        recipes={recipe.name: recipe for recipe in map(read_recipe, builtin_recipes())},
        recipe=recipe,
        set_values={f"passes.{name.replace('__', '.')}": value for name, value in values.items()},
        providers={"mine": "mine (my-fusions 1.0)"},
    )


WHOLE = "version: 1\nname: whole\nextends: none\npasses: [fuse_qkv, {more}choose_kernels]\n"


def test_a_whole_recipe_gets_it_and_says_who_brought_it(write: Callable[[str], str]) -> None:
    result = resolved(write(WHOLE.format(more="")), mine__width=3)
    assert [name for name, _ in result.passes] == ["fuse_qkv", "mine", "choose_kernels"]
    assert result.passes[1][1].width == 3
    (choice,) = [choice for choice in result.choices if choice.key == "passes.mine"]
    assert choice.origin.reason == "inserted by plugin mine (my-fusions 1.0) after fuse_qkv"


def test_a_list_that_has_it_decides_its_place(write: Callable[[str], str]) -> None:
    listed = WHOLE.format(more="fuse_gate_up, mine: {width: 2}, ").replace("mine: {width: 2}", "{mine: {width: 2}}")
    result = resolved(write(listed))
    assert [name for name, _ in result.passes] == ["fuse_qkv", "fuse_gate_up", "mine", "choose_kernels"]
    (choice,) = [choice for choice in result.choices if choice.key == "passes.mine"]
    assert re.search("recipe whole", choice.origin.layer)


@pytest.mark.parametrize("how", ["set", "recipe"])
def test_off_removes_it(write: Callable[[str], str], how: str) -> None:
    result = (
        resolved(write(WHOLE.format(more="")), mine=False)
        if how == "set"
        else resolved(write(WHOLE.format(more="mine: off, ").replace("mine: off", "{mine: off}")))
    )
    assert [name for name, _ in result.passes] == ["fuse_qkv", "choose_kernels"]


def test_anchors_in_words() -> None:
    assert anchors(step(Stage.FUSE, after=("a", "b"), before=("c",))) == "after a, b and before c"
    assert anchors(step(Stage.FUSE)) == ""
