"""Patterns as expressions, matched against a graph and replaced by other expressions."""

from autodeploy.rewrite.apply import RewriteResult, apply_rules
from autodeploy.rewrite.expression import AnyOf, Call, Cast, Expr, Maybe, Var, cast, evaluate
from autodeploy.rewrite.match import Match, Miss, match_rule
from autodeploy.rewrite.rule import Rule, rewrite

__all__ = [
    "AnyOf",
    "Call",
    "Cast",
    "Expr",
    "Match",
    "Maybe",
    "Miss",
    "RewriteResult",
    "Rule",
    "Var",
    "apply_rules",
    "cast",
    "evaluate",
    "match_rule",
    "rewrite",
]
