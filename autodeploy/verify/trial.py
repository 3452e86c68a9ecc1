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
from autodeploy.verify.continuous import continuous
from autodeploy.verify.difference import Difference, compare, relative_error
from autodeploy.verify.execution import Execution
from autodeploy.verify.result import Check, Finding, Trial
from autodeploy.verify.rewrite import State, find_rewrite

MAX_DRIFT = 2.0
"""How many times further from float32 a graph may be than the traced one in its dtype: passes may round otherwise."""

Results = Mapping[str, Tensor]
"""What a graph gives for each kind of sample."""


def run_trial(
    graph_module: GraphModule,
    context: Context,
    passes: Sequence[Pass],
    execution: Execution,
    dtype: torch.dtype,
    truths: Sequence[Results] = (),
    observe: Callable[[Check], None] = lambda _: None,
) -> tuple[Trial, Sequence[Results]]:
    """Run `passes` over a traced graph, which is changed, and check each; also the results that they are held to.

    A pass that is `exact` must keep every bit. Any other must stay within its `tolerance` in float32; in another
    dtype, where `truths` has the results in float32, its graph may be twice as far from these as the traced graph is.
    A `lossy` pass, and what follows it, is held to what it simulates on the graph before it: in float32 without
    rounding any input (see `continuous`), in another dtype to being twice as far from that as the simulation is there.
    Raises VerificationError, which names the pass and the rewrite.
    """
    trial = _Trial(graph_module, context, passes, execution, dtype, truths)
    run_passes(graph_module, passes, context, lambda _: observe(trial.check()))
    return trial.result(), trial.truths


class _Trial:
    """The states of one run: each pass is judged when it has run."""

    def __init__(
        self,
        graph_module: GraphModule,
        context: Context,
        passes: Sequence[Pass],
        execution: Execution,
        dtype: torch.dtype,
        given: Sequence[Results],
    ) -> None:
        self._live = State(graph_module, context)
        self._passes = passes
        self._execution = execution
        self._dtype = str(dtype).removeprefix("torch.")
        self._given = list(given)
        self._checks: list[Check] = []
        self.truths: list[Results] = []
        self._before = self._snapshot()
        self._first = self._results_before = self._results(self._before)
        self._hold_to(self._first)

    def check(self) -> Check:
        """Judge the pass that has just run."""
        current = self._passes[len(self._checks)]
        state = self._snapshot()
        results = self._results_before if state.computes_as(self._before) else self._results(state)
        check = self._judge(current, results)
        self._checks.append(check)
        if check.failure is not None:
            raise self._error(current, check.failure)
        self._before, self._results_before = state, results
        return check

    def result(self) -> Trial:
        """The checks, and the last graph against the first."""
        differences = self._compare(self._first, self._results_before)
        whole = Check("all passes", "", differences, self._drift(self._results_before))
        return Trial(self._dtype, tuple(self._checks), whole)

    def _snapshot(self) -> State:
        context = replace(self._live.context, weights=self._live.context.weights.copy(), misses=[])
        return State(copy_graph(self._live.graph_module), context)

    def _results(self, state: State) -> Results:
        graph_module = state.graph_module if self._given else continuous(state.graph_module)
        return self._execution.results(graph_module, state.context.weights)

    def _hold_to(self, expected: Results) -> None:
        """Hold what follows to `expected` or, where the same is known in float32, to that."""
        self.truths.append(expected)
        self._truth = self._given[len(self.truths) - 1] if self._given else None
        self._allowed_drift = None if self._truth is None else MAX_DRIFT * _drift(self._truth, expected)

    def _simulated(self, current: Pass) -> Results:
        """What the graph before `current` gives once all that this rounds is rounded by plain operators."""
        gm = copy_graph(self._before.graph_module)
        context = replace(self._before.context, weights=self._before.context.weights.copy())
        current.simulate(gm, context)
        gm.graph.eliminate_dead_code()
        context.weights.prune(gm)
        return self._results(State(gm, context))

    def _compare(self, before: Results, after: Results) -> dict[str, Difference]:
        over_vocabulary = self._execution.over_vocabulary
        return {kind: compare(before[kind], after[kind], over_vocabulary=over_vocabulary) for kind in before}

    def _drift(self, results: Results) -> float | None:
        return None if self._truth is None else _drift(self._truth, results)

    def _judge(self, current: Pass, results: Results) -> Check:
        differences = self._compare(self._results_before, results)
        drift = self._drift(results)
        check = Check(current.name, "bitwise", differences, drift)
        if current.lossy:
            return self._judge_loss(check, current, results)
        if current.exact:
            return replace(check, failure=None if check.worst.bitwise else "it is declared exact, and bits differ")
        if self._allowed_drift is None or drift is None:
            return _within(check, check.worst.relative, current.tolerance, "the relative error")
        return _within(check, drift, self._allowed_drift, "the distance from float32")

    def _judge_loss(self, check: Check, current: Pass, results: Results) -> Check:
        """The figures are the loss; what is bounded is how far it is from the loss that the pass declares."""
        if results is self._results_before:  # it changed nothing
            return check
        expected = self._simulated(current)
        self._hold_to(expected)
        if self._allowed_drift is None or self._truth is None:
            apart = max(relative_error(expected[kind], results[kind]) for kind in results)
            judged = _within(check, apart, current.tolerance, "the relative error to rounding alone")
        else:
            drift = _drift(self._truth, results)
            judged = _within(replace(check, drift=drift), drift, self._allowed_drift, "the distance from float32")
        return replace(judged, bound=f"loss {judged.bound}")

    def _error(self, current: Pass, failure: str) -> VerificationError:
        rewrite = (
            None
            if current.lossy
            else find_rewrite(  # of a part of its rewrites nothing is known to be right
                self._before, current, lambda state: self._judge(current, self._results(state)).failure is not None
            )
        )
        culprit = f"; {rewrite.headline} does it" if rewrite else ""
        culprit = culprit or ("" if current.lossy else "; it does so without asking for fuel")
        sentence = f"pass {current.name!r} changes the numbers in {self._dtype}: {failure}{culprit}"
        return VerificationError(sentence, Finding(self._dtype, tuple(self._checks), rewrite))


def _within(check: Check, found: float, allowed: float, what: str) -> Check:
    failure = None if found <= allowed else f"{what} is {found:.1e} and may be {allowed:.1e}"
    return replace(check, bound=f"≤ {allowed:.1e}", failure=failure)


def _drift(truth: Results, results: Results) -> float:
    return max(relative_error(truth[kind], results[kind]) for kind in truth)
