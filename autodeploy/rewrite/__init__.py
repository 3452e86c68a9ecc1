"""Patterns as expressions, matched against a graph and replaced by other expressions."""

from autodeploy.rewrite.apply import RewriteResult, apply_rules
from autodeploy.rewrite.expression import (
    AnyOf,
    Call,
    Cast,
    Computed,
    Expr,
    Maybe,
    Outputs,
    Var,
    cast,
    evaluate,
    getitem,
)
from autodeploy.rewrite.match import Match, match_rule
from autodeploy.rewrite.place import Miss, Place
from autodeploy.rewrite.rule import Rule, rewrite

__all__ = [
    "AnyOf",
    "Call",
    "Cast",
    "Computed",
    "Expr",
    "Match",
    "Maybe",
    "Miss",
    "Outputs",
    "Place",
    "RewriteResult",
    "Rule",
    "Var",
    "apply_rules",
    "cast",
    "evaluate",
    "getitem",
    "match_rule",
    "rewrite",
]
