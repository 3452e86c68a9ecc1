"""What can be looked at: a traced model, a result of passes, an artifact, or a graph alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch.fx import GraphModule
from transformers import PreTrainedModel

from autodeploy.cost import CostModel, Pace, StepShape
from autodeploy.cost.pace import Timed
from autodeploy.errors import RecipeError
from autodeploy.hardware import PRECISIONS, Gpu, load_gpu
from autodeploy.inspect.describe import NO_COSTS, Costs
from autodeploy.inspect.fold import fold_graph
from autodeploy.inspect.model import GraphView, OperatorCost
from autodeploy.program import ProgramSpec
from autodeploy.runtime.settings import RuntimeSettings

if TYPE_CHECKING:
    from autodeploy.artifact import Artifact
    from autodeploy.export import Traced
    from autodeploy.optimizer import Optimized

DECODE = StepShape(1, 1, 1024)
"""The step that costs are told of: one token of one request with 1,024 tokens of context."""
PROMPT = StepShape(1, 1024, 1024)
"""A prompt of as many tokens."""


@dataclass(frozen=True)
class Subject:
    """A graph with what is known of where it runs. `spec` is None where it takes no steps, and costs are unknown."""

    title: str
    graph_module: GraphModule
    spec: ProgramSpec | None = None
    gpu: Gpu | None = None
    """None where no passes chose for a device, and times cannot be told."""
    history: tuple[dict[str, Any], ...] = ()
    """A report of each pass, as `PassReport.as_dict` writes it."""
    runtime: RuntimeSettings | None = None

    @classmethod
    def of_traced(cls, traced: Traced) -> Subject:
        """The graph as it was traced."""
        spec = None
        if isinstance(traced.model, PreTrainedModel):
            spec = ProgramSpec(int(traced.config.get_text_config().vocab_size), 1, ())
        return cls(f"{_name(traced)}, traced", traced.graph_module, spec)

    @classmethod
    def of_result(cls, result: Optimized) -> Subject:
        """The graph that passes made."""
        gpu = known_gpu(result.recipe.target.gpu)
        title = f"{_name(result.traced)} for {_device(gpu, result.recipe.target.gpu)}"
        history = tuple(report.as_dict() for report in result.history)
        return cls(title, result.graph_module, result.spec, gpu, history, result.recipe.runtime)

    @classmethod
    def of_artifact(cls, artifact: Artifact) -> Subject:
        """The main graph of an artifact."""
        details = artifact.manifest.details
        gpu = known_gpu(str(details.get("gpu", "")))
        title = f"{artifact.manifest.name} for {_device(gpu, str(details.get('gpu', '')))}"
        spec = ProgramSpec.from_dict(details["program"]) if "program" in details else None  # type: ignore[arg-type]
        runtime = RuntimeSettings.model_validate(artifact.recipe.get("runtime", {}))
        return cls(title, artifact.graph_module(), spec, gpu, tuple(artifact.history), runtime)

    @property
    def model(self) -> CostModel | None:
        """What counts the costs of its steps."""
        return None if self.spec is None else CostModel(self.graph_module, self.spec)

    @property
    def num_parameters(self) -> int:
        """Elements of all weights that the graph reads, each once."""
        weights = {str(node.target): node for node in self.graph_module.graph.find_nodes(op="get_attr")}
        return sum(node.meta["val"].numel() for node in weights.values())

    def timed(self, shape: StepShape) -> tuple[Timed, ...]:
        """The operators of a step with their predicted times; empty where steps or the device are not known."""
        if self.model is None or self.gpu is None:
            return ()
        return Pace.of(self.gpu).step(self.model.works(shape), shape.num_requests).operators

    def costs(self, shape: StepShape = DECODE) -> Costs:
        """What the calls cost in a step."""
        if self.model is None:
            return NO_COSTS
        if self.gpu is None:
            works = self.model.works(shape)
            return {one.name: OperatorCost(one.num_bytes, one.num_flops) for one in works}
        return {
            one.work.name: OperatorCost(
                one.work.num_bytes, one.work.num_flops, one.seconds, PRECISIONS.get(one.work.precision, "fp32")
            )
            for one in self.timed(shape)
        }

    @cached_property
    def view(self) -> GraphView:
        """The graph folded, with the costs of a decode step."""
        device = self.gpu.name if self.gpu else ""
        return fold_graph(self.graph_module.graph, self.title, self.costs(), device)


def known_gpu(name: str) -> Gpu | None:
    """The device called `name`; None for one of a user's own file, which is not at hand any more."""
    try:
        return load_gpu(name)
    except RecipeError:
        return None


def _device(gpu: Gpu | None, name: str) -> str:
    if gpu is None:
        return name or "a device that it does not name"
    return "the CPU" if gpu.is_cpu else gpu.title


def _name(traced: Traced) -> str:
    """The class of the model, such as LlamaForCausalLM."""
    return type(traced.model).__name__
