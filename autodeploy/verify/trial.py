"""Running a pipeline while comparing each state of the graph with the one before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import GraphModule

from autodeploy.errors import VerificationError
from autodeploy.graph.copy import copy_graph
from autodeploy.pipeline import Context, Pass, run_passes
from autodeploy.verify.difference import Difference, compare, relative_error
from autodeploy.verify.execution import Execution
from autodeploy.verify.result import Check, Finding, Trial
from autodeploy.verify.rewrite import State, find_rewrite

MAX_DRIFT = 2.0
"""How many times further from float32 a graph may be than the traced one in its dtype: passes may round otherwise."""

Logits = Mapping[str, Tensor]


def run_trial(
    graph_module: GraphModule,
    context: Context,
    passes: Sequence[Pass],
    execution: Execution,
    dtype: torch.dtype,
    truth: Logits | None = None,
    observe: Callable[[Check], None] = lambda _: None,
) -> tuple[Trial, Logits]:
    """Run `passes` over a traced graph, which is changed, and check each; also the logits of the traced graph.

    A pass that is `exact` must keep every bit. Any other must stay within its `tolerance` in float32; in another
    dtype, where `truth` has the logits in float32, its graph may be twice as far from these as the traced graph is.
    Raises VerificationError, which names the pass and the rewrite.
    """
    trial = _Trial(graph_module, context, passes, execution, dtype, truth)
    run_passes(graph_module, passes, context, lambda _: observe(trial.check()))
    return trial.result(), trial.first


class _Trial:
    """The states of one run: each pass is judged when it has run."""

    def __init__(
        self,
        graph_module: GraphModule,
        context: Context,
        passes: Sequence[Pass],
        execution: Execution,
        dtype: torch.dtype,
        truth: Logits | None,
    ) -> None:
        self._live = State(graph_module, context)
        self._passes = passes
        self._execution = execution
        self._dtype = str(dtype).removeprefix("torch.")
        self._truth = truth
        self._checks: list[Check] = []
        self._before = self._snapshot()
        self.first = self._logits(self._before)
        self._logits_before = self.first
        self._allowed_drift = None if truth is None else MAX_DRIFT * _drift(truth, self.first)

    def check(self) -> Check:
        """Judge the pass that has just run."""
        current = self._passes[len(self._checks)]
        state = self._snapshot()
        logits = self._logits_before if state.computes_as(self._before) else self._logits(state)
        check = self._judge(current, logits)
        self._checks.append(check)
        if check.failure is not None:
            raise self._error(current, check.failure)
        self._before, self._logits_before = state, logits
        return check

    def result(self) -> Trial:
        """The checks, and the last graph against the first."""
        whole = Check("all passes", "", _compare(self.first, self._logits_before), self._drift(self._logits_before))
        return Trial(self._dtype, tuple(self._checks), whole)

    def _snapshot(self) -> State:
        context = replace(self._live.context, weights=self._live.context.weights.copy(), misses=[])
        return State(copy_graph(self._live.graph_module), context)

    def _logits(self, state: State) -> Logits:
        return self._execution.logits(state.graph_module, state.context.weights)

    def _drift(self, logits: Logits) -> float | None:
        return None if self._truth is None else _drift(self._truth, logits)

    def _judge(self, current: Pass, logits: Logits) -> Check:
        differences = _compare(self._logits_before, logits)
        drift = self._drift(logits)
        check = Check(current.name, "bitwise", differences, drift)
        if current.exact:
            return replace(check, failure=None if check.worst.bitwise else "it is declared exact, and bits differ")
        if self._allowed_drift is None or drift is None:
            return _within(check, check.worst.relative, current.tolerance, "the relative error")
        return _within(check, drift, self._allowed_drift, "the distance from float32")

    def _error(self, current: Pass, failure: str) -> VerificationError:
        rewrite = find_rewrite(
            self._before, current, lambda state: self._judge(current, self._logits(state)).failure is not None
        )
        culprit = f"; {rewrite.headline} does it" if rewrite else "; it does so without asking for fuel"
        sentence = f"pass {current.name!r} changes the numbers in {self._dtype}: {failure}{culprit}"
        return VerificationError(sentence, Finding(self._dtype, tuple(self._checks), rewrite))


def _within(check: Check, found: float, allowed: float, what: str) -> Check:
    failure = None if found <= allowed else f"{what} is {found:.1e} and may be {allowed:.1e}"
    return replace(check, bound=f"≤ {allowed:.1e}", failure=failure)


def _compare(before: Logits, after: Logits) -> dict[str, Difference]:
    return {kind: compare(before[kind], after[kind]) for kind in before}


def _drift(truth: Logits, logits: Logits) -> float:
    return max(relative_error(truth[kind], logits[kind]) for kind in truth)
