import torch
from packed_gates.kernels import load
from packed_gates.ops import packed_gate
from packed_gates.patterns import gate_of_halves
from torch import Tensor

import autodeploy as ad
from autodeploy.testing import assert_counts, check_pattern, surviving_mutants, tiny_config


def sample(dtype: torch.dtype) -> dict[str, object]:
    return {"x": torch.randn(3, 5, 16).to(dtype), "widths": [8, 8], "kind": "silu"}


def test_the_pattern_computes_what_replaces_it() -> None:
    check_pattern(gate_of_halves, sample)
    assert surviving_mutants(gate_of_halves, sample) == []


def test_the_kernel_computes_what_the_operator_says() -> None:
    (kernel,) = load()
    x: Tensor = torch.randn(4, 32, dtype=torch.float64)
    torch.testing.assert_close(kernel.run(x, "silu"), packed_gate.reference(x, "silu"))
    assert kernel.declines(x, "gelu") == "gelu is left to the reference"


def test_every_layer_of_a_llama_has_one() -> None:
    config = tiny_config("llama")
    traced = ad.trace(config)
    layers = config.num_hidden_layers
    packed = ad.optimize(traced, gpu="cpu")
    plain = ad.optimize(traced, gpu="cpu", set={"passes.pack_gates": False, "passes.fuse_gated_linear": False})
    assert_counts(packed.graph_module, {"packed_gates.packed_gate": layers}, absent=["gated_activation"])
    assert_counts(plain.graph_module, {"gated_activation": layers}, absent=["packed_gates.packed_gate"])
    assert len(plain.graph_module.graph.nodes) - len(packed.graph_module.graph.nodes) == 3 * layers
