"""Floors, worked out by hand for a model small enough."""

from __future__ import annotations

from itertools import pairwise

import pytest
from transformers import AutoConfig

import autodeploy as ad
from autodeploy.bench.ceilings import Ceilings
from autodeploy.bench.workloads import Decode, Floors, Offline
from autodeploy.cost import Cost, CostModel, StepShape
from autodeploy.testing import tiny_config

HIDDEN, INTERMEDIATE, VOCAB, LAYERS, HEADS, KV_HEADS = 32, 48, 96, 2, 4, 2
HEAD = HIDDEN // HEADS
SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "vocab_size": VOCAB,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": 512,
}
LAYER = HIDDEN * (HIDDEN + 2 * KV_HEADS * HEAD) + HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE
CEILINGS = Ceilings("a device", read_gb_s=1.0, tflops=1.0, dtype="bfloat16")


def model_of(**options: object) -> CostModel:
    optimized = ad.optimize(ad.trace(AutoConfig.for_model("llama", **SIZES, **options), dtype="bf16"), gpu="h200")
    assert optimized.spec is not None
    return CostModel(optimized.graph_module, optimized.spec)


def weight_bytes(rows: int) -> int:
    """Bytes that a step of so many tokens reads of the weights: of the embedding, the rows of its tokens."""
    norms, rotary = (2 * LAYERS + 1) * HIDDEN, HEAD // 2
    return 2 * (LAYERS * LAYER + norms + VOCAB * HIDDEN + rows * HIDDEN) + 4 * rotary


@pytest.mark.parametrize("batch", [1, 5])
def test_the_cost_of_a_decode_step(batch: int) -> None:
    found = model_of().cost(StepShape(batch, 1, context=100))
    cache = LAYERS * 2 * KV_HEADS * HEAD * 2 * 100
    assert found.num_bytes == weight_bytes(batch) + batch * cache
    attention = LAYERS * 4 * HEADS * HEAD * 100
    assert found.num_flops == batch * (2 * (LAYERS * LAYER + VOCAB * HIDDEN) + attention)


def test_the_cost_of_a_prefill() -> None:
    """What follows the last attention sees the last token alone, and a token attends to those before it."""
    found = model_of().cost(StepShape(1, 64, context=64))
    pairs = 64 * 65 // 2
    end = HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE
    projections = 64 * 2 * (LAYERS * LAYER - end) + 2 * (end + VOCAB * HIDDEN)
    assert found.num_flops == projections + LAYERS * 4 * HEADS * HEAD * pairs
    assert found.num_bytes == weight_bytes(64) + LAYERS * 2 * KV_HEADS * HEAD * 2 * 64


def test_products_of_8_bits_have_a_ceiling_of_their_own() -> None:
    optimized = ad.optimize(ad.trace(AutoConfig.for_model("llama", **SIZES), dtype="bf16"), gpu="h200", quantize="fp8")
    assert optimized.spec is not None
    cost = CostModel(optimized.graph_module, optimized.spec).cost(StepShape(64, 1, context=1))
    assert cost.num_narrow == 64 * 2 * LAYERS * LAYER
    assert model_of().cost(StepShape(64, 1, context=1)).num_narrow == 0
    wide, narrow = Ceilings("one", 1e9, 1.0, "bfloat16"), Ceilings("one", 1e9, 1.0, "bfloat16", narrow_tflops=2.0)
    assert wide.floor(cost)[0] == pytest.approx(cost.num_flops / 1e12)
    assert narrow.floor(cost)[0] == pytest.approx((cost.num_flops - cost.num_narrow / 2) / 1e12)
    assert "2.0 of 8 bits" in narrow.sentence()


def test_a_tied_head_is_read_whole() -> None:
    shape = StepShape(1, 1, 10)
    assert model_of(tie_word_embeddings=True).cost(shape) == model_of().cost(shape)


def test_a_window_bounds_what_is_seen() -> None:
    shape = StepShape(1, 4, context=10)
    assert (shape.num_seen(None), shape.num_pairs(None)) == (10, 7 + 8 + 9 + 10)
    assert (shape.num_seen(3), shape.num_pairs(3)) == (6, 12)  # keys 5 to 10, three for each query
    assert (shape.num_seen(9), shape.num_pairs(9)) == (10, 7 + 8 + 9 + 9)
    assert StepShape(1, 1, 193.5).num_pairs(None) == 193.5


def test_few_tokens_choose_few_experts() -> None:
    optimized = ad.optimize(ad.trace(tiny_config("mixtral"), dtype="bf16"), gpu="h200")
    assert optimized.spec is not None
    model = CostModel(optimized.graph_module, optimized.spec)
    costs = [model.cost(StepShape(size, 1, 1)).num_bytes for size in (1, 2, 1000, 1001)]
    grown = [after - before for before, after in pairwise(costs)]
    assert grown[0] > 100 * grown[2] > 0  # once all experts are read, a token adds no more than itself


def test_a_floor_is_the_longer_of_reading_and_computing() -> None:
    assert CEILINGS.floor(Cost(2e9, 1e12)) == (2.0, "memory")
    assert CEILINGS.floor(Cost(2e9, 3e12)) == (3.0, "compute")


def test_the_floor_of_a_workload() -> None:
    floors = Floors(model_of(), CEILINGS, max_batch_size=4)
    step = Decode(3).mean_step()
    contexts = [128 + token - 1 for token in range(3, 131)]  # the step that makes token n sees all before it
    assert step == StepShape(3, 1, sum(contexts) / len(contexts))
    decode, prefill = floors.model.cost(StepShape(4, 1, 20)), floors.model.cost(StepShape(4, 16, 16))
    seconds, bound = floors.seconds(*Offline(16, 8, num_requests=12).least_steps(4))
    assert bound == "memory"
    assert seconds == pytest.approx((prefill.times(3) + decode.times(21)).num_bytes / 1e9)
