"""The twin computes what AIMET's simulation computes, values and gradients."""

from __future__ import annotations

import pytest
import torch
from net import images

from hexpath_quant.agreement import sqnr_db
from hexpath_quant.errors import TraceError
from hexpath_quant.fakequant import FakeQuantize, Grid, saturated
from hexpath_quant.lean import ActivationQuantizer, LeanTwin
from hexpath_quant.methods import find_method
from hexpath_quant.plans import PLANS
from hexpath_quant.prepare import prepare
from hexpath_quant.qat import set_trainable
from hexpath_quant.sensitivity.build import build_engine
from hexpath_quant.sensitivity.engine import Base
from hexpath_quant.sim import forward_of


@pytest.mark.parametrize("plan", ["w8a8", "w4a8", "w8a16", "w8a8-per-tensor"])
def test_twin_has_the_simulations_values(make_sim, plan):
    sim = make_sim(plan)
    pictures = images(4, seed=7)
    for ours, theirs in zip(LeanTwin(sim)(pictures), forward_of(sim.model)(pictures), strict=True):
        assert sqnr_db(reference=theirs.numpy(), found=ours.detach().numpy()) > 50


@pytest.mark.parametrize("plan", ["w8a16", "w8a8"])
def test_gradients_are_aimets(make_sim, plan):
    sim = make_sim(plan)
    set_trainable(sim, ranges="learned")
    for _, q in [
        (n, m) for n, m in sim.model.named_modules() if hasattr(m, "set_range") and hasattr(m, "min")
    ]:
        with torch.no_grad():  # narrower ranges, so that clipping happens
            if q.is_overwrite_allowed("max") and not (float(q.min.min()) == 0 and float(q.max.max()) == 1):
                q.max.mul_(0.8)
                q.min.mul_(0.8)
    pictures = images(4, seed=8)
    found = []
    for model in (sim.model, LeanTwin(sim)):
        sim.model.zero_grad()
        outputs = model(pictures)
        sum((o * torch.linspace(-1, 1, o.numel()).reshape(o.shape)).sum() for o in outputs).backward()
        found.append({n: p.grad.clone() for n, p in sim.model.named_parameters() if p.grad is not None})
    theirs, ours = found
    assert set(ours) == {n for n in theirs if n in ours}
    assert len(ours) > 40
    largest = max(float(g.norm()) for n, g in theirs.items() if n.endswith((".min", ".max")))
    for name, gradient in ours.items():
        if name.endswith((".min", ".max")):  # single roundings that fall the other way matter in small ones
            torch.testing.assert_close(gradient, theirs[name], rtol=0.1, atol=0.01 * largest, msg=name)
            continue
        similarity = torch.nn.functional.cosine_similarity(gradient.flatten(), theirs[name].flatten(), dim=0)
        assert similarity > 0.98, name
        torch.testing.assert_close(gradient.norm(), theirs[name].norm(), rtol=0.1, atol=0, msg=name)


@pytest.mark.parametrize("symmetric", [False, True])
def test_fake_quantize_gradients_by_autograd(symmetric):
    """Against the same formula written with torch operators and a straight-through round."""
    torch.manual_seed(0)
    x = torch.randn(500, requires_grad=True)
    low, high = torch.tensor(-0.9, requires_grad=True), torch.tensor(1.2, requires_grad=True)

    def rounded(t):
        return t + (t.round() - t).detach()

    scale = (high - low) / 255
    qmin = -128 if symmetric else 0
    offset = torch.zeros(()) if symmetric else rounded(low / scale) - qmin
    y = (rounded(x / scale).clamp(qmin + offset, qmin + 255 + offset)) * scale
    grid = Grid(
        scale=float(scale),
        low=float(qmin + offset),
        high=float(qmin + 255 + offset),
        steps=255,
        symmetric=symmetric,
    )
    weight = torch.linspace(-1, 2, 500)
    expected = torch.autograd.grad((y * weight).sum(), (x, low, high))
    ours = FakeQuantize.apply(x, low, high, grid)
    torch.testing.assert_close(ours, y)
    for a, b in zip(torch.autograd.grad((ours * weight).sum(), (x, low, high)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=5e-3, atol=1e-3)  # one value lies on the edge of the grid


def test_parameters_are_shared(make_sim):
    sim = make_sim()
    ours = {id(p) for p in LeanTwin(sim).parameters()}
    theirs = {id(p) for p in sim.model.parameters()}
    assert ours <= theirs
    assert len(ours) > 0.8 * len(theirs)


def test_bfloat16_stays_close(make_sim):
    sim = make_sim()
    pictures = images(4, seed=9)
    for low, full in zip(LeanTwin(sim, dtype=torch.bfloat16)(pictures), LeanTwin(sim)(pictures), strict=True):
        assert low.dtype == torch.float32
        assert sqnr_db(reference=full.detach().numpy(), found=low.detach().numpy()) > 20


def test_per_channel_activations_are_refused():
    import aimet_torch.quantization as Q

    with pytest.raises(TraceError, match="not per-tensor"):
        ActivationQuantizer(Q.affine.QuantizeDequantize(shape=(4,), bitwidth=8, symmetric=True))


class Ratio(torch.nn.Module):
    """A ratio whose parts are both rounded to 0 at some places, and to something else elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.over = torch.nn.Conv2d(3, 4, 1)
        self.out = torch.nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.over(x).relu()
        return self.out(x / (x * x + 1e-6))


def test_zero_over_zero_is_cut_off_as_in_the_simulation():
    torch.manual_seed(0)
    pictures = images(4, seed=3)
    prepared = prepare(Ratio(), example=pictures[:1])
    sim = find_method("minmax").quantize(
        prepared, example=pictures[:1], plan=PLANS["w8a8"], batches=lambda: [pictures], input_range=(0.0, 1.0)
    )
    (theirs,) = forward_of(sim.model)(pictures)
    engine = build_engine(sim)
    for (ours,) in (LeanTwin(sim)(pictures), engine.outputs(engine.run(pictures, base=Base.WITHOUT))):
        assert torch.isfinite(ours).all()
        same = torch.isclose(ours.detach(), theirs, rtol=1e-3, atol=1e-3)
        assert same.float().mean() > 0.98, "but for single roundings"


def test_only_zero_over_zero_changes():
    quotient = torch.tensor([0.0, 1.0, -1.0, 3.0]) / torch.tensor([0.0, 0.0, 0.0, 2.0])
    assert saturated(quotient).tolist() == [-torch.inf, torch.inf, -torch.inf, 1.5]
