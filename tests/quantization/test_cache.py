"""A cache in 8 bits: what it costs, how much fits, and where its scales come from."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pytest
import torch
from torch import Tensor

import autodeploy as ad
from autodeploy.errors import RecipeError
from autodeploy.runtime.memory import resolve_num_pages
from autodeploy.runtime.settings import RuntimeSettings
from autodeploy.testing.families import VOCAB_SIZE, tiny_model
from autodeploy.weights import MemorySource
from autodeploy.weights.checkpoint import cache_scales
from tests.families import Built, build, config_of, error, replay

TOKEN_IDS = torch.randint(3, VOCAB_SIZE, (20,), generator=torch.manual_seed(1)).tolist()
STEPS = (12, *[1] * 8)
WEIGHTS = dict(tiny_model(config_of("llama")).state_dict())
FORMAT = "passes.quantize_cache.format"


def scales(**kinds: Tensor) -> dict[str, Tensor]:
    return {f"model.layers.{layer}.self_attn.{kind}": scale for layer in range(2) for kind, scale in kinds.items()}


def built(cached: str, extra: Mapping[str, Tensor] = MappingProxyType({}), scheme: str = "none") -> Built:
    values = {FORMAT: cached, "passes.mark_precision.scheme": scheme}
    return build(config_of("llama"), MemorySource({**WEIGHTS, **extra}), values=values)


@pytest.fixture(scope="module")
def plain() -> Tensor:
    return replay(built("auto").program, TOKEN_IDS, STEPS)


def test_fp8_needs_no_scales_and_half_of_16_bits(plain: Tensor) -> None:
    program = built("fp8").program
    assert {page.dtype for page in program.new_cache(3, 4)} == {torch.float8_e4m3fn}
    assert program.page_bytes(4) * 4 == built("auto").program.page_bytes(4)  # the model is in float32
    assert 1e-4 < error(replay(program, TOKEN_IDS, STEPS), plain) < 0.1


def test_fp8_holds_twice_the_tokens_of_bf16_in_the_same_memory() -> None:
    traced = ad.trace(config_of("llama"), dtype="bf16")
    settings = RuntimeSettings(page_size=16, cache_bytes=1 << 20)
    tokens = {}
    for cached in ("auto", "fp8"):
        program = ad.optimize(traced, gpu="cpu", set={FORMAT: cached, "passes.tune_kernels": False}).program
        num_pages = resolve_num_pages(program, settings, program.max_model_len)
        taken = sum(one.nbytes for one in program.new_cache(num_pages, settings.page_size))
        assert settings.cache_bytes is not None
        assert 0.99 * settings.cache_bytes < taken <= settings.cache_bytes
        tokens[cached] = num_pages * settings.page_size
    assert tokens["fp8"] == 2 * tokens["auto"]


@pytest.mark.parametrize("shape", [(), (1,), (2,)])
def test_int8_takes_the_scales_of_the_checkpoint(plain: Tensor, shape: tuple[int, ...]) -> None:
    extra = scales(k_scale=torch.full(shape, 0.02), v_scale=torch.full(shape, 0.02))
    found = built("int8", extra)
    assert found.tensors["model.layers.1.self_attn.v_scale"].tolist() == pytest.approx([0.02, 0.02])
    assert 1e-4 < error(replay(found.program, TOKEN_IDS, STEPS), plain) < 0.05


def test_scales_are_used() -> None:
    fine, coarse = (scales(k_scale=torch.tensor(one), v_scale=torch.tensor(one)) for one in (0.02, 0.5))
    near, far = (replay(built("int8", one).program, TOKEN_IDS, STEPS) for one in (fine, coarse))
    assert error(far, near) > 0.05


def test_int8_without_scales_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"holds no model\.layers\.0\.self_attn\.k_scale; int8 needs calibrated"):
        built("int8")


def test_scales_are_found_by_the_names_that_tools_give_them() -> None:
    keys = ["a.self_attn.k_scale", "b.self_attn.k_proj.k_scale", "b.self_attn.v_proj.v_scale", "b.k_proj.weight_scale"]
    found = cache_scales(MemorySource({key: torch.ones(()) for key in keys}))
    assert list(found) == ["a.self_attn.k_scale", "b.self_attn.k_scale", "b.self_attn.v_scale"]


def test_weights_and_cache_together(plain: Tensor) -> None:
    both = built("fp8", scheme="int8")
    assert 1e-4 < error(replay(both.program, TOKEN_IDS, STEPS), plain) < 0.1
