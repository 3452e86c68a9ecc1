"""Convolutions become canonical, take in their batch norms, and apply their activations."""

from __future__ import annotations

from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from autodeploy.passes.canonicalize_convolutions import CanonicalizeConvolutions
from autodeploy.passes.canonicalize_linears import CanonicalizeLinears
from autodeploy.passes.canonicalize_mlps import CanonicalizeMlps
from autodeploy.passes.clean_graph import CleanGraph
from autodeploy.passes.fold_batch_norm import FoldBatchNorm
from autodeploy.passes.functionalize import Functionalize
from autodeploy.passes.fuse_convolution_activation import FuseConvolutionActivation
from autodeploy.pipeline import PassReport
from tests.graphs import run, targets

PASSES = (
    Functionalize(),
    CleanGraph(),
    CanonicalizeLinears(),
    CanonicalizeConvolutions(),
    CanonicalizeMlps(),
    FoldBatchNorm(),
    FuseConvolutionActivation(),
)
CONVOLUTION, ACTIVATED = "autodeploy.convolution.default", "autodeploy.convolution_activation.default"


class Block(nn.Module):
    """A basic block of a ResNet that halves the image (He et al., 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=True)
        self.bn2 = nn.BatchNorm2d(8)
        self.shortcut = nn.Sequential(nn.Conv2d(6, 8, 1, stride=2, bias=False), nn.BatchNorm2d(8, affine=False))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return cast("Tensor", self.relu(out))


def randomized(module: nn.Module) -> nn.Module:
    """Weights and statistics none of which is a zero or one that would hide a mistake; some variances are tiny."""
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn_like(tensor) + 0.3)
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(torch.rand_like(buffer) * torch.logspace(-5, 0, len(buffer)))
    return module.eval()


def optimized(module: nn.Module, x: Tensor) -> tuple[GraphModule, list[PassReport]]:
    passed = run(PASSES, module, x, dim=0)
    return passed.graph_module, passed.reports


def error(gm: GraphModule, module: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        wanted = module.double()(x.double())
        got = gm(x.clone())
    assert got.dtype == x.dtype
    return float((got - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_residual_block_has_convolutions_alone(dtype: torch.dtype, tolerance: float) -> None:
    module = randomized(Block()).to(dtype)
    x = torch.randn(2, 6, 8, 8).to(dtype)
    gm, reports = optimized(module, x)
    assert targets(gm) == [ACTIVATED, CONVOLUTION, CONVOLUTION, "aten.add.Tensor", "autodeploy.activate.default"]
    assert {report.name: report.matches for report in reports}["fold_batch_norm"] == 3
    assert error(gm, module, torch.randn(3, 6, 8, 8).to(dtype)) <= tolerance


FORMS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "one dimension": (nn.Sequential(nn.Conv1d(4, 6, 3, padding=2, dilation=2), nn.BatchNorm1d(6)), (2, 4, 9)),
    "three dimensions": (nn.Sequential(nn.Conv3d(2, 4, 2, stride=2), nn.BatchNorm3d(4)), (2, 2, 4, 4, 4)),
    "groups": (nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8), nn.SiLU()), (2, 4, 6, 6)),
    "padded to the same size": (nn.Conv2d(4, 4, (3, 5), padding="same", dilation=2), (2, 4, 6, 6)),
    "padded by nothing": (nn.Conv2d(4, 4, 3, padding="valid"), (2, 4, 6, 6)),
    "a projection": (nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), (3, 4)),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_it(name: str) -> None:
    module, shape = FORMS[name]
    x = torch.randn(shape)
    gm, _ = optimized(randomized(module), x)
    (target,) = targets(gm)
    assert target.startswith(("autodeploy.convolution", "autodeploy.linear"))
    assert error(gm, module, torch.randn(shape)) <= 1e-5


class Shared(nn.Module):
    """A convolution that something else reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return cast("Tensor", self.bn(y) + y)


LEFT: dict[str, tuple[nn.Module, tuple[int, ...], str]] = {
    "norm first": (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)), (2, 4, 6, 6), "is no convolution"),
    "batch": (
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        (2, 4, 6, 6),
        "measures the batch",
    ),
    "shared": (Shared(), (2, 4, 6, 6), "is also used elsewhere"),
    "channels first": (nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(4)), (2, 4, 5), "its channels are not"),
    "transposed": (nn.ConvTranspose2d(4, 4, 2), (2, 4, 6, 6), ""),
    "uneven": (nn.Conv2d(4, 4, 2, padding="same"), (2, 4, 6, 6), "pads one end more"),
}


@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_has_a_reason(name: str) -> None:
    module, shape, reason = LEFT[name]
    gm, reports = optimized(randomized(module), torch.randn(shape))
    misses = [miss.reason for report in reports for miss in report.misses]
    assert any(reason in miss for miss in misses) or not reason
    assert error(gm, module, torch.randn(shape)) <= 1e-5


def test_one_weight_with_two_norms_makes_two_weights() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return cast("Tensor", self.one(self.conv(x)) + self.two(self.conv(x.sin())))

    module = randomized(Twice())
    gm, _ = optimized(module, torch.randn(2, 4, 6, 6))
    assert targets(gm).count(CONVOLUTION) == 2
    assert error(gm, module, torch.randn(2, 4, 6, 6)) <= 1e-5
