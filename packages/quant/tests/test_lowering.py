"""Ordinary torch code that torch's exporter, or AIMET, does not take as it is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hexpath_quant import qdq, quantize
from hexpath_quant.errors import PreparationError, TraceError
from hexpath_quant.lowering import OpenAttention
from hexpath_quant.prepare import check_equal, prepare

SIDE = 8


class Behind(nn.Module):
    """A convolution, and whatever a test puts behind it."""

    def __init__(
        self, then: Callable[[nn.Module, Tensor], Tensor], **layers: nn.Module | nn.Parameter
    ) -> None:
        super().__init__()
        self.first, self.then = nn.Conv2d(3, 8, 3, padding=1), then
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self, self.first(x).relu())


class Token(nn.Module):
    """What a vision transformer has: patches, a token of its own, positions, attention."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.places = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 65, 8))
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + self.places
        normed = self.norm(tokens)
        mixed, _ = self.attention(normed, normed, normed, need_weights=False)
        return (tokens + mixed)[:, 0]


def channels_first_norm(net: nn.Module, x: Tensor) -> Tensor:
    normed = F.layer_norm(x.permute(0, 2, 3, 1), (8,), net.gamma, net.beta, 1e-6)
    return net.last(normed.permute(0, 3, 1, 2))


def shuffle(net: nn.Module, x: Tensor) -> Tensor:
    count, channels, height, width = x.size()
    pairs = x.view(count, 2, channels // 2, height, width).transpose(1, 2).contiguous()
    return net.last(pairs.view(count, channels, height, width))


def one() -> nn.Module:
    return nn.Conv2d(8, 4, 1)


KINDS: dict[str, Callable[[], nn.Module]] = {
    "linear behind flatten(2)": lambda: Behind(lambda net, x: net.last(x.flatten(2)), last=nn.Linear(64, 6)),
    "flatten(1)": lambda: Behind(lambda net, x: net.last(x.flatten(1)), last=nn.Linear(512, 6)),
    "slopes": lambda: Behind(
        lambda net, x: net.last(net.act(net.b(x))), b=nn.Conv2d(8, 8, 1), act=nn.PReLU(8), last=one()
    ),
    "behind a pooling": lambda: Behind(
        lambda net, x: net.last(net.pool(x)), pool=nn.MaxPool2d(2), last=one()
    ),
    "functional norm": lambda: Behind(
        channels_first_norm, gamma=nn.Parameter(torch.rand(8)), beta=nn.Parameter(torch.rand(8)), last=one()
    ),
    "scaled branch": lambda: Behind(
        lambda net, x: net.last(net.scale * x + x), scale=nn.Parameter(torch.rand(8, 1, 1)), last=one()
    ),
    "shuffled channels": lambda: Behind(shuffle, last=one()),
    "token and attention": lambda: Behind(
        lambda net, x: net.last(net.body(x)), body=Token(), last=nn.Linear(8, 5)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plan", ["w8a8", "w8a16"])
def test_ordinary_code_is_quantized_without_a_float_island(kind: str, plan: str, tmp_path) -> None:
    torch.manual_seed(0)
    net = KINDS[kind]().eval()
    agreement_db = quantize(net, calibration=[torch.rand(8, 3, SIDE, SIDE)], plan=plan, out=tmp_path / "q")
    assert min(agreement_db.values()) > 40
    model = qdq.check_graph(tmp_path / "q" / "model.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"Shape", "Gather", "Expand", "ConstantOfShape", "Unsqueeze"} - {"Gather"}


def test_opened_attention_computes_the_same() -> None:
    torch.manual_seed(0)
    for batch_first in (True, False):
        closed = nn.MultiheadAttention(12, 3, batch_first=batch_first).eval()
        x, y = torch.randn(2, 5, 12), torch.randn(2, 5, 12)
        found, _ = OpenAttention(closed)(x, y, y)
        torch.testing.assert_close(found, closed(x, y, y)[0])
    with pytest.raises(TraceError, match="kdim, vdim, add_bias_kv"):
        OpenAttention(nn.MultiheadAttention(12, 3, kdim=6))
    with pytest.raises(TraceError, match="with a mask has no quantized form"):
        OpenAttention(closed)(x, y, y, attn_mask=torch.zeros(5, 5))


def test_a_difference_beyond_rounding_is_refused() -> None:
    """A chain that amplifies roundings may differ by what they do, and by no more."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)).eval()
    example = torch.rand(1, 3, SIDE, SIDE)
    prepared = prepare(net, example=example)
    for weight in prepared.parameters():
        weight.data.mul_(1.0001)
    with pytest.raises(PreparationError, match="at most 1e-05 is allowed"):
        check_equal(original=net, prepared=prepared, example=example)
