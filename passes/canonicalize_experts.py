"""Mixtures of experts written by hand to the canonical operator."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.fx import GraphModule, Node

from autodeploy.graph.nodes import calls_of, insert_call, value
from autodeploy.passes.dense_experts import Chosen, read_dense
from autodeploy.passes.expert_terms import Mixture, is_end, read_mixture
from autodeploy.passes.join_experts import Joined, Unlike, all_experts
from autodeploy.patterns.gathered_weights import GATHERED_WEIGHTS
from autodeploy.pipeline import Context, Pass, Stage
from autodeploy.rewrite import Miss
from autodeploy.rewrite.apply import erase_unused

aten = torch.ops.aten
_SUMS = (aten.index_add.default, aten.index_put.default, aten.add.Tensor)
_CHECKS = (aten._assert_scalar.default, aten.sym_constrain_range_for_size.default)


class CanonicalizeExperts(Pass):
    """Replace a sum over experts, each computed for the rows that chose it or for all, by `expert_linear`s.

    So are products with weights that were gathered for each row, and those with the weights of all experts at once.
    The experts must be alike but for their weights, which the plan stacks. What they are weighted by, and how rows
    choose them, stays as it is written. A mixture whose weights do not show which experts a row chose is computed with
    all of them, as it was before; that is correct and slow, and reported (Shazeer et al., 2017).
    """

    name: ClassVar[str] = "canonicalize_experts"
    stage: ClassVar[Stage] = Stage.CANONICALIZE
    exact: ClassVar[bool] = False  # the experts of a row are summed up in another order
    tolerance: ClassVar[float] = 1e-5

    def run(self, gm: GraphModule, ctx: Context) -> int:
        """Apply the patterns of products, then read each sum of two or more experts; replace it, or say why not."""
        changed = ctx.rewrite(gm, GATHERED_WEIGHTS)
        changed += sum(_choose(gm, ctx, root) for root in calls_of(gm.graph, aten.sum.dim_IntList))
        for root in reversed(calls_of(gm.graph, *_SUMS)):
            if root._erased or not is_end(root):
                continue
            mixture = read_mixture(root)
            if len(mixture.terms) < 2:
                continue
            reason = _declines(mixture)
            if reason is not None:
                ctx.misses.append(Miss.at(self.name, root, mixture.terms[0].result, reason))
            elif ctx.spend():
                changed += self._replace(gm, ctx, mixture)
        return changed

    def _replace(self, gm: GraphModule, ctx: Context, mixture: Mixture) -> bool:
        terms = sorted(mixture.terms, key=lambda term: term.expert)
        routing, root = terms[0].routing, mixture.root
        with gm.graph.inserting_before(root):
            selected = all_experts(routing, len(terms)) if routing.selected is None else routing.selected
            try:
                results = Joined(gm, ctx, terms, selected).compute()
            except Unlike as unlike:
                ctx.misses.append(Miss.at(self.name, root, unlike.node, str(unlike)))
                return False
            total = _mixed(results, routing.weights, mixture)
        if routing.selected is None:
            reason = f"{routing.weights} does not show which experts a row chose: all {len(terms)} are computed"
            ctx.misses.append(Miss.at(self.name, total, routing.weights, reason))
        found = [term.rows.args[0] for term in terms if term.rows is not None]
        root.replace_all_uses_with(total)
        erase_unused(root)
        for node in found:
            _erase_checks(node)  # type: ignore[arg-type]
        return True


def _choose(gm: GraphModule, ctx: Context, root: Node) -> bool:
    """A sum over all experts, computed by weights that hold all of them, as one over those that each row chose."""
    mixture = None if root._erased else read_dense(root)
    if mixture is None or mixture.routing.selected is None or ctx.fuel == 0:
        return False
    with gm.graph.inserting_before(root):
        try:
            results = Chosen(gm, ctx, mixture.routing.selected).compute(mixture.results, mixture.place)
        except Unlike as unlike:
            ctx.misses.append(Miss.at(CanonicalizeExperts.name, root, unlike.node, str(unlike)))
            return False
        total = _mixed(results, mixture.routing.weights, Mixture(root, (), ()))
    ctx.spend()
    root.replace_all_uses_with(total)
    erase_unused(root)
    return True


def _declines(mixture: Mixture) -> str | None:
    experts = sorted(term.expert for term in mixture.terms)
    if experts != list(range(len(experts))):
        return f"the experts are numbers {experts}, not each of 0 to {len(experts) - 1} once"
    if len({term.routing for term in mixture.terms}) > 1:
        return "the experts are weighted by different tensors"
    return None


def _mixed(results: Node, weights: Node, mixture: Mixture) -> Node:
    """The weighted sum over the chosen experts, and what else was added to it."""
    graph, wanted = results.graph, value(mixture.root)
    column = insert_call(graph, aten.unsqueeze.default, (weights, -1))
    weighted = insert_call(graph, aten.mul.Tensor, (results, column))
    total = insert_call(graph, aten.sum.dim_IntList, (weighted, [-2]))
    if value(total).dtype != wanted.dtype:
        total = insert_call(graph, aten.to.dtype, (total, wanted.dtype))
    for rest in mixture.rest:
        total = insert_call(graph, aten.add.Tensor, (rest, total))
    return total


def _erase_checks(found: Node) -> None:
    """Erase the search for an expert's rows, when only checks of how many there are still read it."""
    readers: dict[Node, None] = {found: None}
    for node in readers.copy():
        pending = [node]
        while pending:
            users = [user for user in pending.pop().users if user not in readers]
            readers.update(dict.fromkeys(users))
            pending.extend(users)
    if any(not node.users and node.target not in _CHECKS for node in readers if node is not found):
        return
    for node in sorted(readers, reverse=True):
        source = node.all_input_nodes
        node.graph.erase_node(node)
        for parent in source:
            if parent not in readers:
                erase_unused(parent)
