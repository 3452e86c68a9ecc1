"""What was found out of a model, in the user's cache folder: a second plan neither traces nor imports transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from autodeploy.cache import cache_dir, forget_oldest, mark_used, replace_file
from autodeploy.cost import Tally
from autodeploy.cost.tally import Area
from autodeploy.pipeline import Pass
from autodeploy.planning.facts import Facts
from autodeploy.planning.figures import ModelFigures
from autodeploy.planning.surroundings import surroundings
from autodeploy.program import ProgramSpec

CONFIGS = ("config.json", "hf_quant_config.json")
"""The files of a model that say what it is."""
MOST = 256
"""Files kept: two of each plan, 50 kB together."""


def plans_dir() -> Path:
    """Where it is kept. It need not exist yet, and may be removed at any time."""
    return cache_dir() / "plans"


@dataclass(frozen=True)
class Kept:
    """What is kept of the model in `folder`. It rests on the config, on everything installed, and on our own code."""

    folder: Path

    def facts(self) -> Facts | None:
        """What its config was found to say, or None."""
        found = self._load({})
        try:
            dtype = found["dtype"]
            return Facts(found["model_type"], dtype and getattr(torch, dtype), found["quantization"])
        except (AttributeError, KeyError, TypeError):
            return None

    def keep_facts(self, facts: Facts) -> None:
        """Keep what its config says."""
        dtype = None if facts.dtype is None else str(facts.dtype).removeprefix("torch.")
        self._save({}, {"model_type": facts.model_type, "dtype": dtype, "quantization": facts.quantization})

    def figures(self, dtype: torch.dtype, device: torch.device, passes: Sequence[Pass]) -> ModelFigures | None:
        """What tracing it so was found to give, or None."""
        found = self._load(_traced(dtype, device, passes))
        try:
            spec, areas = ProgramSpec.from_dict(found.pop("spec")), _AREAS.validate_python(found.pop("areas"))
            return ModelFigures(**found.pop("model"), costs=Tally(spec, areas, **found))
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def keep_figures(
        self, dtype: torch.dtype, device: torch.device, passes: Sequence[Pass], figures: ModelFigures
    ) -> None:
        """Keep what tracing it so gave, where it is known without the graph."""
        costs = figures.costs
        if not isinstance(costs, Tally):
            return
        model = {name: value for name, value in vars(figures).items() if name != "costs"}
        areas = [asdict(area) for area in costs.areas]
        data = {"model": model, "spec": costs.spec.as_dict(), "areas": areas}
        self._save(_traced(dtype, device, passes), {**data, "weights": costs.weights, "cache": costs.cache})

    @cached_property
    def _model(self) -> list[str]:
        files = [self.folder / name for name in CONFIGS]
        return [hashlib.sha256(one.read_bytes()).hexdigest() for one in files if one.is_file()]

    def _path(self, asked: Mapping[str, Any]) -> Path:
        key = json.dumps([self._model, asked, surroundings()], sort_keys=True)
        return plans_dir() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def _load(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        path = self._path(asked)
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):  # a cache may be lost at any time: it is found out again
            return {}
        mark_used(path)
        return found if isinstance(found, dict) else {}

    def _save(self, asked: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        try:
            replace_file(self._path(asked), json.dumps(data))
            forget_oldest(plans_dir(), MOST)
        except (OSError, TypeError):  # a plan is as good where nothing can be kept
            return


_AREAS = TypeAdapter(tuple[Area, Area, Area])


def _traced(dtype: torch.dtype, device: torch.device, passes: Sequence[Pass]) -> dict[str, Any]:
    options = [(one.name, one.model_dump(mode="json")) for one in passes]
    return {"dtype": str(dtype), "device": device.type, "passes": options}
