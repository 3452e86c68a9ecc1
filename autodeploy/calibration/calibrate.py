"""Calibrating a model: its graph meets real text, and each projection is fitted to what it reads."""

from __future__ import annotations

from collections.abc import Sequence, Set
from functools import partial

import torch
from torch import Tensor
from torch.fx import Graph, Node

from autodeploy.calibration import modelopt
from autodeploy.calibration.gptq import hessian, round_by
from autodeploy.calibration.ranges import find_range
from autodeploy.calibration.request import Request, can_be_static
from autodeploy.calibration.result import Calibration, Change
from autodeploy.calibration.sites import Fold, Site, find_fold, find_sites
from autodeploy.calibration.walk import Walk
from autodeploy.graph.nodes import arguments, calls_of
from autodeploy.graph.origin import module_path
from autodeploy.progress import Progress, stage
from autodeploy.quantization import Parts, Scheme, dequantize
from autodeploy.quantization.formats import MAXIMUM
from autodeploy.weights import TensorSource, WeightPlan

ops = torch.ops.autodeploy
STAGE = "calibrate"


def calibrate(
    graph: Graph,
    plan: WeightPlan,
    source: TensorSource,
    device: torch.device,
    windows: Sequence[Sequence[int]],
    request: Request,
    known: Set[str],
    progress: Progress,
) -> Calibration:
    """Run a canonical graph, whose projections are marked, over `windows` of token ids, and give what was found.

    Weights that are not `known` by name stay as they are. Raises UnsupportedError for a technique that needs modelopt
    where it is missing, or that cannot run on `device`.
    """
    run = _Run(Walk(graph, plan, source, device, windows), request, known)
    visits = {site.calls[0]: partial(run.visit_site, site) for site in find_sites(graph, known)}
    attentions = calls_of(graph, ops.attention.default) if request.cache != "auto" else []
    visits |= {attention: partial(run.visit_attention, attention) for attention in attentions}
    if not visits:
        return Calibration()

    def told(visit: partial[None]) -> None:
        visit()
        progress.advance(STAGE)

    with stage(progress, STAGE, len(visits)):
        last = [node for node in graph.nodes if node in visits][-1]
        run.walk.run(last, {node: partial(told, visit) for node, visit in visits.items()})
    return run.result()


class _Run:
    """One calibration: what has been found so far."""

    def __init__(self, walk: Walk, request: Request, known: Set[str]) -> None:
        self.walk = walk
        self._request = request
        self._known = known
        self._found: dict[str, dict[str, object]] = {}
        self._cache_scales: dict[str, Tensor] = {}
        self._cached: Tensor | None = None
        self._notes: list[str] = []

    def result(self) -> Calibration:
        """Everything that was found."""
        changes = {name: Change(**found) for name, found in self._found.items()}  # type: ignore[arg-type]
        return Calibration(changes, self._cache_scales, tuple(self._notes))

    def visit_attention(self, attention: Node) -> None:
        """Find the scales of the keys and values that an attention caches."""
        named, module = arguments(attention), module_path(attention)
        for kind in "kv":
            rows = torch.cat([one.flatten(0, 1) for one in self.walk.values(named[kind])])
            self._cache_scales[f"{module}.{kind}_scale"] = self._scales(rows)
        self._cached = rows  # of its values, which may be smoothed yet

    def visit_site(self, site: Site) -> None:
        """Fit the projections of a site to their input."""
        inputs = self.walk.values(site.x)
        if self._request.technique.smoothing != "none":
            factors = self._smooth(site, inputs)
            inputs = inputs if factors is None else [one.float() * factors for one in inputs]
        if self._request.technique.static and can_be_static(site.scheme):
            static = site.scheme.model_copy(update={"activations": "static"})
            scale = _scale(inputs, self._request.method, site.scheme.weights)
            for name in site.names:
                self._change(name, scheme=static, input_scale=scale)
        if self._request.technique.rounding == "gptq":
            self._round(site, inputs)

    def _smooth(self, site: Site, inputs: Sequence[Tensor]) -> Tensor | None:
        """Move factors of the input `[K]` into what makes it, and out of the weights; None where that cannot be."""
        modelopt.refuse(site.scheme, inputs[0].device)
        fold = find_fold(site)
        if isinstance(fold, Fold) and not set(fold.weights) <= self._known:
            fold = "what makes its input is stored in another form"
        if isinstance(fold, str):
            self._notes.append(f"{site}: not smoothed, for {fold}")
            return None
        weight = torch.cat([self.walk.weight(one) for one in site.weights])
        factors = fold.shared(modelopt.input_factors(weight, inputs, site.scheme, self._request.technique))
        self._fold(fold, fold.rows(factors).cpu())
        for name in site.names:
            self._change(name, columns=factors.reciprocal().cpu())
        return factors

    def _fold(self, fold: Fold, rows: Tensor) -> None:
        for index, name in enumerate(fold.weights):
            offset = (rows - 1) * fold.offset if fold.offset and index == 0 else None
            self._change(name, rows=rows, shift=offset)
        if fold.attention is not None and self._cached is not None:
            heads = rows.to(self._cached.device).reshape(-1, fold.size)
            self._cache_scales[f"{module_path(fold.attention)}.v_scale"] = self._scales(self._cached * heads)

    def _round(self, site: Site, inputs: Sequence[Tensor]) -> None:
        """Round the site's weights; what comes after is computed with them."""
        curvature = hessian(inputs)
        for node, name in zip(site.weights, site.names, strict=True):
            weight = self.walk.weight(node)
            parts = round_by(curvature, weight, site.scheme)
            self.walk.replaced[name] = dequantize(
                parts.values, parts.scale, parts.zero, parts.global_scale, site.scheme.weights
            ).to(weight.dtype)
            self._change(name, scheme=site.scheme, parts=_on_cpu(parts))

    def _scales(self, rows: Tensor) -> Tensor:
        """The scale of each head of keys or values `[T, Hk, D]`, as `[Hk]`."""
        request = self._request
        return torch.stack([_scale([head], request.method, request.cache) for head in rows.unbind(1)])

    def _change(self, name: str, **found: Tensor | Scheme | object) -> None:
        self._found.setdefault(name, {}).update({part: one for part, one in found.items() if one is not None})


def _on_cpu(parts: Parts) -> Parts:
    """The parts where plans read weights, whatever device found them."""
    held = (parts.values, parts.scale, parts.zero, parts.global_scale)
    return Parts(*(one if one is None else one.cpu() for one in held))  # type: ignore[arg-type]


def _scale(values: Sequence[Tensor], method: str, format: str) -> Tensor:
    """The scale `[]`, float32, that brings the range of values to the largest number of a format."""
    return torch.tensor((find_range(values, method, format) or MAXIMUM[format]) / MAXIMUM[format])
