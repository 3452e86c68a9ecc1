from __future__ import annotations

import pytest
import torch
from torch import nn

from autodeploy.errors import UnsupportedError
from autodeploy.graph.rows import check_rows
from tests.graphs import Of, trace

ROWS = {
    "pointwise": lambda x: torch.sigmoid(x) * 2 + x,
    "norm": lambda x: nn.functional.layer_norm(x, (8,)),
    "softmax of a row": lambda x: x.softmax(-1),
    "heads": lambda x: x.view(1, -1, 2, 4).transpose(1, 2).reshape(1, 2, -1, 4).transpose(1, 2).reshape(1, -1, 8),
    "halves": lambda x: torch.cat((-x[..., 4:], x[..., :4]), -1),
    "all tokens": lambda x: x[:, slice(0, None), :].sin(),
    "a padded row": lambda x: nn.functional.pad(x, (0, 4)),
    "a table": lambda x: torch.ones(3, 8)[x.argmax(-1) % 3],
    "rows as a matrix": lambda x: (x.reshape(-1, 8) @ torch.ones(8, 8)).view(1, -1, 8),
    "top of a row": lambda x: x.topk(2, -1).values,
}
MIXES = {
    "shift": lambda x: nn.functional.pad(x, (0, 0, 1, -1)),
    "last token": lambda x: x * x[:, -1:],
    "convolution": lambda x: nn.functional.conv1d(x.transpose(1, 2), torch.ones(8, 1, 3), padding=2, groups=8),
    "running sum": lambda x: x.cumsum(1),
    "mean": lambda x: x - x.mean(1, keepdim=True),
    "total": lambda x: x / x.max(),
    "scores": lambda x: (x @ x.transpose(1, 2)).softmax(-1) @ x,
    "products": lambda x: x.transpose(1, 2) @ x + x.new_zeros(1),
    "sorting": lambda x: x.sort(dim=1).values,
    "reversed": lambda x: x.flip(1),
    "rolled": lambda x: x.roll(1, 1),
    "picked": lambda x: x[:, x[0, :, 0].argsort()],
    "counted": lambda x: x + torch.arange(x.shape[1]).unsqueeze(-1),
    "padded": lambda x: nn.functional.pad(x, (0, 0, 1, 0)),
    "built-in attention": lambda x: nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True),
}


@pytest.mark.parametrize("name", ROWS)
def test_what_treats_tokens_one_by_one_is_accepted(name: str) -> None:
    check_rows(trace(Of(ROWS[name]), torch.randn(1, 6, 8)))


@pytest.mark.parametrize("name", MIXES)
def test_what_mixes_tokens_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match=r"^Of: aten\..*; only attention may depend on what else is in the row$"):
        check_rows(trace(Of(MIXES[name]), torch.randn(1, 6, 8)))
