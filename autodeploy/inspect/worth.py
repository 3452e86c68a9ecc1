"""What each pass is worth: how much longer a step takes without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from autodeploy.cost import CostModel, Pace, StepShape
from autodeploy.errors import AutodeployError, InputError
from autodeploy.inspect.pipeline_page import Worth
from autodeploy.inspect.subject import DECODE, known_gpu

if TYPE_CHECKING:
    from autodeploy.bench.ablation import Ablation
    from autodeploy.optimizer import Compiled, Optimized


def predict_worths(result: Optimized, shape: StepShape = DECODE) -> dict[int, Worth]:
    """Compile the model again without each pass that changed something, and compare the predicted steps.

    A pass that the others, or serving, cannot do without has no figure. Raises InputError where no device is known to
    predict for.
    """
    from autodeploy.bench.ablation import without_pass
    from autodeploy.optimizer import compile_graph

    gpu = known_gpu(result.recipe.target.gpu)
    if gpu is None or result.spec is None:
        raise InputError("no device is known that steps of this graph could be predicted for")
    pace = Pace.of(gpu)
    whole = _seconds(result, pace, shape)
    worths: dict[int, Worth] = {}
    for index in (index for index, report in enumerate(result.history) if report.matches):
        try:
            rest = compile_graph(result.traced, without_pass(result.recipe, index), result.source, result.device)
        except AutodeployError:
            continue
        if rest.spec != result.spec:
            continue
        worths[index] = Worth(predicted=100 * (_seconds(rest, pace, shape) / whole - 1))
    return worths


def with_measured(worths: Mapping[int, Worth], ablation: Ablation) -> dict[int, Worth]:
    """The same beside what `autodeploy bench --ablate` measured of the same recipe."""
    measured = {row.index: row.worth_percent for row in ablation.rows if row.worth_percent is not None}
    none = Worth()
    return {
        index: Worth(worths.get(index, none).predicted, measured.get(index)) for index in sorted({*worths, *measured})
    }


def _seconds(compiled: Compiled, pace: Pace, shape: StepShape) -> float:
    assert compiled.spec is not None
    works = CostModel(compiled.graph_module, compiled.spec).works(shape)
    return pace.step(works, shape.num_requests).seconds
