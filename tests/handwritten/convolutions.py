"""A residual block of a convolutional network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = 8


class ResNetBlock(nn.Module):
    """Two convolutions with batch norms, a shortcut that halves the image, and ReLUs (He et al., 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(2 * CHANNELS, 2 * CHANNELS, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(CHANNELS, 2 * CHANNELS, 1, stride=2)
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(2 * CHANNELS) for _ in range(3))
        for norm in (self.norm1, self.norm2, self.norm3):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
            norm.running_mean, norm.running_var = torch.randn(2 * CHANNELS), torch.rand(2 * CHANNELS) + 0.1

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(h)) + self.norm3(self.shortcut(x)))
