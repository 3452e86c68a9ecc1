"""Proof that passes keep the numbers: every graph against the one before it, down to the single rewrite at fault."""

from autodeploy.verify.difference import Difference, compare
from autodeploy.verify.result import Check, Trial, Verification
from autodeploy.verify.rewrite import Rewrite
from autodeploy.verify.samples import Samples, token_samples
from autodeploy.verify.trial import run_trial

__all__ = [
    "Check",
    "Difference",
    "Rewrite",
    "Samples",
    "Trial",
    "Verification",
    "compare",
    "run_trial",
    "token_samples",
]
