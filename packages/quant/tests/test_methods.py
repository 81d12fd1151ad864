"""Each method improves what it is for, on a net that is made for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hexpath_quant.errors import UnknownNameError
from hexpath_quant.methods import METHODS, find_method
from hexpath_quant.plans import parse_plan
from hexpath_quant.prepare import prepare
from hexpath_quant.sim import forward_of

SIDE = 8


def outputs(net: nn.Module, method: str, plan: str, *, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the float network's output and the quantized one's."""
    with torch.no_grad():
        wanted = net(images)
    sim = find_method(method).quantize(
        prepare(net, example=images[:1]),
        example=images[:1],
        plan=parse_plan(plan),
        batches=lambda: iter(images.split(8)),
        input_range=(0.0, 1.0),
    )
    return wanted, forward_of(sim.model)(images)[0]


def sqnr_db(wanted: Tensor, found: Tensor) -> float:
    return float(10 * torch.log10(wanted.square().sum() / (wanted - found).square().sum()))


def images(count: int = 16) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def three_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 4, 1),
    ).eval()


def uneven() -> nn.Sequential:
    """One channel a hundred times as large as its neighbours, which the next layer takes back."""
    net = three_layers()
    with torch.no_grad():
        factors = torch.logspace(-1, 1, 16)
        net[0].weight.mul_(factors[:, None, None, None])
        net[0].bias.mul_(factors)
        net[2].weight.div_(factors[None, :, None, None])
    return net


def test_equalization_evens_out_weights() -> None:
    worst = sqnr_db(*outputs(uneven(), "minmax", "w8a8-per-tensor", images=images()))
    best = sqnr_db(*outputs(uneven(), "cle", "w8a8-per-tensor", images=images()))
    assert best > worst + 3


def test_ranges_without_the_outlier_keep_the_rest() -> None:
    """One pixel of 8,000 drives the first layer far beyond the others."""
    net, some = three_layers(), images(125)
    with torch.no_grad():
        net[0].weight[:, 0] = net[0].weight[:, 0].abs() * 0.2
    some[0, 0, 4, 4] = 60.0
    errors = {}
    for name in ("minmax", "percentile"):
        sim = find_method(name).quantize(
            prepare(net, example=some[:1]),
            example=some[:1],
            plan=parse_plan("w8a8"),
            batches=lambda: iter(some.split(25)),
            input_range=None,
        )
        with torch.no_grad():
            errors[name] = sqnr_db(net(some[1:]), forward_of(sim.model)(some[1:])[0])
    assert errors["percentile"] > errors["minmax"] + 3


def test_ranges_with_the_least_noise_serve_few_bits() -> None:
    """Weights with long tails: at 4 bits the tails cost the many small weights their steps."""
    net = three_layers()
    with torch.no_grad():
        for layer in (net[0], net[2], net[4]):
            layer.weight.copy_(torch.distributions.StudentT(3.0).sample(layer.weight.shape) * 0.1)
    worst = sqnr_db(*outputs(net, "minmax", "w4a8-per-tensor", images=images()))
    best = sqnr_db(*outputs(net, "sqnr", "w4a8-per-tensor", images=images()))
    assert best > worst + 1


def test_bias_correction_takes_back_the_shift() -> None:
    results = {}
    for name in ("minmax", "bias-correction"):
        wanted, found = outputs(three_layers(), name, "w4a8-per-tensor", images=images())
        shift = (wanted - found).mean(dim=(0, 2, 3)).abs().max()
        results[name] = float(shift), sqnr_db(wanted, found)
    assert results["bias-correction"][0] < 0.25 * results["minmax"][0]
    assert results["bias-correction"][1] > results["minmax"][1] + 1


def test_composed_methods_do_what_their_steps_do() -> None:
    found = {
        name: sqnr_db(*outputs(uneven(), name, "w4a8-per-tensor", images=images()))
        for name in ("minmax", "cle", "cle+bias-correction")
    }
    assert found["cle+bias-correction"] > found["cle"] > found["minmax"]
    recipe = find_method("cle+sqnr+bias-correction")
    assert recipe.before == (METHODS["cle"],)
    assert recipe.ranges is METHODS["sqnr"]
    assert recipe.behind == (METHODS["bias-correction"],)


def test_names_that_cannot_be_composed() -> None:
    with pytest.raises(UnknownNameError, match="two that observe ranges; take one of minmax"):
        find_method("minmax+sqnr")
    with pytest.raises(UnknownNameError, match="names a step twice"):
        find_method("cle+cle")
    with pytest.raises(UnknownNameError, match="unknown method 'clee'; did you mean 'cle'"):
        find_method("sqnr+clee")
