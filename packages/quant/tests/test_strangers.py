"""Networks that nobody here wrote: `quantize` and its checks on each kind of activation and block."""

from __future__ import annotations

import pytest
import torch
from net import images
from torch import Tensor, nn

from hexpath_quant import qdq, quantize
from hexpath_quant.lean import LeanTwin
from hexpath_quant.methods import find_method
from hexpath_quant.plans import parse_plan
from hexpath_quant.prepare import prepare
from hexpath_quant.sim import forward_of


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.act(self.a(x) + self.b(x)))


class Rescaled(nn.Module):
    """Numbers in front of convolutions, as networks that normalize or scale by themselves have them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a((x - 0.5) / 0.25) * 0.5) / 3.0)


def net(kind: str) -> nn.Module:
    torch.manual_seed(0)
    acts = {"relu6": nn.ReLU6, "leaky": nn.LeakyReLU, "hardswish": nn.Hardswish, "gelu": nn.GELU}
    if kind == "residual":
        return Residual().eval()
    if kind == "rescaled":
        return Rescaled().eval()
    act = acts.get(kind, nn.ReLU)()
    if kind == "transposed":
        return nn.Sequential(nn.ConvTranspose2d(3, 8, 2, 2), act, nn.Conv2d(8, 4, 1)).eval()
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), act, nn.Conv2d(8, 4, 1)).eval()


KINDS = ["relu", "relu6", "leaky", "hardswish", "gelu", "residual", "rescaled", "transposed"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_activation_is_quantized_and_exported(kind: str, tmp_path) -> None:
    agreement_db = quantize(net(kind), calibration=[images(4, seed=1)], plan="w8a8", out=tmp_path / "q")
    assert min(agreement_db.values()) > 40
    qdq.check_graph(tmp_path / "q" / "model.onnx")


@pytest.mark.parametrize("kind", ["relu", "residual", "leaky"])
def test_the_lean_twin_computes_the_same_without_a_tensor_between_fused_operators(kind: str) -> None:
    example = images(2, seed=3)
    sim = find_method("minmax").quantize(
        prepare(net(kind), example=example),
        example=example,
        plan=parse_plan("w8a8"),
        batches=lambda: iter([images(8, seed=200)]),
        input_range=(0.0, 1.0),
    )
    (ours,), (theirs,) = (
        forward_of(m)(example) for m in (LeanTwin(sim, dtype=torch.float32).eval(), sim.model)
    )
    step = float((theirs.max() - theirs.min()) / 255)
    assert float((ours - theirs).abs().max()) <= 1.01 * step
    assert float((ours != theirs).float().mean()) < 0.02
