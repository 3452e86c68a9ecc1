"""What is said of a choice that was not made is what comes of making it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autodeploy.job import plan
from autodeploy.planning import Outlook
from autodeploy.planning.alternatives import gain_of
from tests.explain.models import MODELS


def outlook(model: str, quantize: str | None = None, **options: object) -> Outlook:
    found = plan(model, gpu="h200", quantize=quantize, set=options).outlook
    assert found is not None
    return found


def reasons(found: Outlook) -> dict[str, str]:
    return {one.what: one.reason for one in found.rejected}


@pytest.mark.parametrize("name", ["llama-3.2-1b", "qwen2-57b-a14b"])
def test_a_scheme_saves_what_it_is_said_to(name: str, tmp_path: Path) -> None:
    """Experts stay as they are, and so they do in what is said."""
    model = MODELS[name].save(tmp_path)
    known = outlook(model)
    for scheme in ("fp8", "int4"):
        (said,) = re.findall(r"([\d.]+) GB of weights less", reasons(known)[f"--quantize {scheme}"])
        saved = known.fit.weights - outlook(model, scheme).fit.weights
        assert saved / 1e9 == pytest.approx(float(said), abs=0.1)


def test_a_mixture_too_large_says_that_its_experts_stay_as_they_are(tmp_path: Path) -> None:
    model = MODELS["mixtral-8x22b"].save(tmp_path)
    told = reasons(outlook(model))
    assert "of which 270.6 are of experts, which --quantize leaves as they are" in told["one h200"]
    assert re.search(
        r"the weights would take 27\d\.\d GB, for which 3 such devices are needed", told["--quantize int4"]
    )
    assert "--quantize int4" not in reasons(outlook(model, "int4"))


def test_a_cache_of_fp8_holds_what_it_is_said_to(tmp_path: Path) -> None:
    model = MODELS["llama-3.2-1b"].save(tmp_path)
    known = outlook(model)
    found = outlook(model, **{"passes.quantize_cache.format": "fp8"})
    said = reasons(known)["--kv-cache fp8"]
    assert f"in place of {known.fit.cache_tokens:,}" in said
    (tokens,) = re.findall(r"would hold ([\d,]+) tokens", said)
    assert found.fit.cache_tokens == pytest.approx(int(tokens.replace(",", "")), rel=0.01)
    assert "--kv-cache fp8" not in reasons(found)


@pytest.mark.parametrize(
    ("factor", "told"),
    [(1.74, "1.7 times as fast"), (1.02, "as fast as now"), (0.98, "as fast as now"), (0.8, "1.2 times slower")],
)
def test_a_gain_is_told_as_one_says_it(factor: float, told: str) -> None:
    assert gain_of(factor) == told
