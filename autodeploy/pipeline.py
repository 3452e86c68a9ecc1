"""Passes as values, and the runner that applies them and does all that is common to them."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch.fx import GraphModule

from autodeploy.errors import RecipeError
from autodeploy.graph.origin import spread_origins
from autodeploy.invariants import check_invariants
from autodeploy.kernels import reference
from autodeploy.leftovers import find_leftovers, refuse
from autodeploy.rewrite import Miss, Place, RewriteResult, Rule, apply_rules
from autodeploy.rewrite.place import closest, counts, fold
from autodeploy.tuning import Tuning
from autodeploy.weights import Expression, WeightPlan

if TYPE_CHECKING:  # passes are loaded to serve, which takes no transformers
    from transformers import PretrainedConfig


class Stage(IntEnum):
    """The order in which a graph is transformed; a recipe never goes back."""

    EXPORT = 0
    CLEAN = 1
    CANONICALIZE = 2
    SHARD = 3
    FUSE = 4
    QUANTIZE = 5
    CACHE = 6
    TUNE = 7
    LOWER = 8
    CAPTURE = 9


@dataclass
class Context:
    """What a pass may know and change besides the graph."""

    config: PretrainedConfig
    weights: WeightPlan
    device: torch.device
    fuel: int | None = None
    """Rewrites still allowed; None when unlimited."""
    rewrites: list[RewriteResult] = field(default_factory=list)
    """What patterns did in the pass that runs now."""
    misses: list[Miss] = field(default_factory=list)
    """Why patterns did not match, or why the pass that runs now declined a place."""
    cache_scales: Mapping[str, Expression] = field(default_factory=dict)
    """The checkpoint's scales of cached keys and values, by the attention's module and `.k_scale` or `.v_scale`."""
    kernels: Any = None
    """The backend table that LOWER chooses from."""
    tuning: Tuning = field(default_factory=Tuning)
    """What TUNE has chosen."""
    notes: list[str] = field(default_factory=list)
    """What the pass that runs now has to tell."""
    leaves_nothing: bool = False
    """Whether it is an error that CANONICALIZE leaves something in primitive form."""
    leftovers: tuple[Place, ...] = ()
    """What it left."""

    def spend(self) -> bool:
        """Ask for one more rewrite; False when the fuel is used up."""
        if self.fuel is None:
            return True
        if self.fuel == 0:
            return False
        self.fuel -= 1
        return True

    def why_unserved(self, op: torch._ops.OpOverload, dtype: torch.dtype) -> str | None:
        """None where a kernel of the device serves `op`; where only its reference would, the reason not to fuse."""
        kernels = self.kernels.candidates(op, self.device.type, dtype) if self.kernels else ()
        served = any(kernel.backend != reference.BACKEND for kernel in kernels)
        return None if served else f"no kernel of {self.device.type} does both in one"

    def rewrite(self, gm: GraphModule, rules: Sequence[Rule]) -> int:
        """Apply `rules` to `gm` within the fuel and keep what they did and missed; returns the number of rewrites."""
        result = apply_rules(gm, rules, self.spend)
        self.rewrites.append(result)
        self.misses.extend(result.misses)
        return result.total


class Pass(BaseModel):
    """A transformation of the graph. It is a frozen value: its fields are its options.

    `exact` says whether the numbers stay the same bit for bit; otherwise `tolerance` bounds the relative error
    `‖out - before‖ / ‖before‖` of the logits in float32. A `lossy` pass rounds on purpose: it is compared with what its
    `simulate` makes of the graph before it. `cleanup` passes may run at any stage. A pass that names others in `before`
    or `after` joins every pipeline that has them, without being listed: see `autodeploy.insertion`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    stage: ClassVar[Stage]
    exact: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.0
    lossy: ClassVar[bool] = False
    cleanup: ClassVar[bool] = False
    before: ClassVar[tuple[str, ...]] = ()
    after: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Transform `gm` in place and return the number of places changed; 0 says that it is as it was."""

    def simulate(self, gm: GraphModule, ctx: Context) -> None:
        """Round in `gm`, by plain operators, what a lossy pass rounds; `autodeploy.verify` asks for it."""


@dataclass(frozen=True)
class PassReport:
    """What one pass did: `rules` are the patterns that it tried, `places` where they matched, `misses` where not."""

    name: str
    stage: str
    options: dict[str, Any]
    matches: int
    nodes_before: int
    nodes_after: int
    seconds: float
    rules: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()
    misses: tuple[Miss, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON data: how often each rule matched, and for each other place the nearest miss, folded."""
        misses = [str(one) for one in fold(closest(self.misses))]
        plain = {name: value for name, value in self.__dict__.items() if name != "places"}
        return {**plain, "rules": counts(self.places, self.rules), "misses": misses}

    def _repr_html_(self) -> str:
        """How it looks in a notebook."""
        from autodeploy.inspect import view_report  # views know reports, not the other way round

        return view_report(self)._repr_html_()


def check_order(passes: Sequence[Pass]) -> None:
    """Raise RecipeError when a pass belongs to an earlier stage than the one before it."""
    previous: Pass | None = None
    for current in passes:
        if current.cleanup:
            continue
        if previous is not None and current.stage < previous.stage:
            raise RecipeError(
                f"pass {current.name!r} ({current.stage.name}) comes after {previous.name!r} ({previous.stage.name}),"
                " but stages never go back; move it before"
            )
        previous = current


def run_passes(
    gm: GraphModule, passes: Sequence[Pass], ctx: Context, observe: Callable[[PassReport], None] | None = None
) -> list[PassReport]:
    """Run `passes` in order on `gm`, cleaning up, checking invariants and reporting after each.

    Whoever observes may call `gm` meanwhile; where nobody does, its code is written once, at the end. Where
    CANONICALIZE ends, what it left in primitive form goes to the context, or raises InvariantError.
    """
    check_order(passes)
    reports: list[PassReport] = []
    stage = Stage.EXPORT
    for current in passes:
        if stage <= Stage.CANONICALIZE < current.stage and ctx.fuel != 0:
            ctx.leftovers = find_leftovers(gm.graph)
            if ctx.leaves_nothing:
                refuse(ctx.leftovers, [miss for report in reports for miss in report.misses])
        stage = max(stage, current.stage)
        report = _run_one(gm, current, ctx, stage, recompile=observe is not None)
        if observe is not None:
            observe(report)
        reports.append(report)
    gm.recompile()
    return reports


def _run_one(gm: GraphModule, current: Pass, ctx: Context, stage: Stage, *, recompile: bool) -> PassReport:
    before, started = len(gm.graph.nodes), time.perf_counter()
    ctx.misses.clear()
    ctx.rewrites.clear()
    ctx.notes.clear()
    matches = current.run(gm, ctx)
    if gm.graph.eliminate_dead_code() or matches:
        spread_origins(gm.graph)
        if recompile:
            gm.recompile()
    ctx.weights.prune(gm)
    burning = ctx.fuel != 0  # a graph whose rewriting was stopped half-way keeps forms that its stage forbids
    check_invariants(
        gm,
        ctx.weights,
        current.name,
        clean=burning and stage >= Stage.CLEAN,
        canonical=burning and stage > Stage.CANONICALIZE,
    )
    return PassReport(
        name=current.name,
        stage=current.stage.name,
        options=current.model_dump(mode="json"),
        matches=matches,
        nodes_before=before,
        nodes_after=len(gm.graph.nodes),
        seconds=time.perf_counter() - started,
        rules=tuple(dict.fromkeys(rule for result in ctx.rewrites for rule in result.rules)),
        places=tuple(place for result in ctx.rewrites for place in result.places),
        misses=_still_there(gm, ctx.misses),
        notes=tuple(ctx.notes),
    )


def _still_there(gm: GraphModule, misses: Sequence[Miss]) -> tuple[Miss, ...]:
    """The misses whose root no later rule of the pass rewrote."""
    names = {node.name for node in gm.graph.nodes}
    return tuple(miss for miss in misses if miss.root in names)
