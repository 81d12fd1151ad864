"""Preparation keeps the function and gives every operator a module of its own."""

from __future__ import annotations

import pytest
import torch
from net import images, trained_net
from torch import nn

from hexpath_quant.errors import PreparationError, TraceError, WeightsError
from hexpath_quant.prepare import check_equal, prepare


def test_same_values_and_no_norms_dropouts_or_shared_modules():
    net = trained_net()
    before = {n: p.clone() for n, p in net.state_dict().items()}
    prepared = prepare(net, example=images(1, seed=1))
    assert check_equal(original=net, prepared=prepared, example=images(2, seed=2)) < 1e-5
    kinds = {type(m).__name__ for m in prepared.modules()}
    assert not kinds & {"BatchNorm2d", "Dropout", "SiLU", "Identity"}
    called = [n.target for n in prepared.graph.nodes if n.op == "call_module"]
    assert len(called) == len(set(called))
    assert all(torch.equal(p, before[n]) for n, p in net.state_dict().items()), (
        "the caller's model is not touched"
    )


def test_weights_used_twice_stay_one_parameter():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(self.conv(x))

    prepared = prepare(Twice(), example=images(1, seed=1))
    assert len([n for n in prepared.graph.nodes if n.op == "call_module"]) == 2
    assert len(list(prepared.parameters())) == 2


def test_nan_weight_is_named():
    net = trained_net()
    with torch.no_grad():
        net.mix.weight[0, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"mix\.weight holds 1 NaN"):
        prepare(net, example=images(1, seed=1))


class _Branch(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


class _Odd(nn.Module):
    def forward(self, x):
        return torch.fft.fft2(x).abs()


class _Erf(nn.Module):
    def forward(self, x):
        return torch.erf(x)


class _Random(nn.Module):
    calls = 0

    def forward(self, x):
        return x * self.factor()

    def factor(self):
        _Random.calls += 1
        return float(_Random.calls)


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (_Branch(), TraceError, r"cannot trace `return x \+ 1 if x.sum\(\) > 0 else x`.*remedy"),
        (_Erf(), TraceError, "operator 'erf' in the top module has no quantized form; remedy"),
        (_Odd(), TraceError, "operator 'abs' in the top module has no quantized form"),
        (
            _Random(),
            PreparationError,
            "output 0 of the prepared model differs by .* does forward depend on state",
        ),
    ],
)
def test_what_cannot_be_prepared_says_why(model, error, text):
    with pytest.raises(error, match=text):
        prepare(model, example=images(1, seed=1))


def test_module_without_quantized_form_is_named():
    from hexpath_quant.plans import parse_plan
    from hexpath_quant.sim import build_sim

    class Strange(nn.Module):
        def forward(self, x):
            return x

    Strange.__module__ = "torch.nn.strange"
    net = nn.Sequential(nn.Conv2d(3, 8, 1), Strange())
    with pytest.raises(TraceError, match="module Strange has no quantized form; remedy"):
        build_sim(prepare(net, example=images(1, seed=1)), example=images(1, seed=1), plan=parse_plan("w8a8"))
