"""Each method improves what it is for, on a net that is made for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hexpath_quant.errors import UnknownNameError
from hexpath_quant.methods import METHODS, adaround, find_method
from hexpath_quant.methods.layers import Visit
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


def test_adaround_finds_better_weights_on_the_same_grid() -> None:
    """The weights end on min-max's grid, at most one step from where they were."""
    net, some = three_layers(), images()
    results = {
        name: sqnr_db(*outputs(net, name, "w4a8", images=some))
        for name in ("minmax", "adaround", "adaround+bias-correction")
    }
    assert results["adaround"] > results["minmax"] + 1.5
    assert results["adaround+bias-correction"] > results["adaround"]
    plain, learned = (quantized(net, name, "w4a8", images=some) for name in ("minmax", "adaround"))
    for before, after in zip(plain, learned, strict=True):
        scale = before.param_quantizers["weight"].get_scale()
        assert torch.equal(scale, after.param_quantizers["weight"].get_scale())
        steps = (after.weight / scale).detach()
        assert torch.allclose(steps, steps.round(), atol=1e-4)
        assert float((steps - before.weight / scale).detach().abs().max()) < 1.001
        assert not torch.equal(steps.round(), (before.weight / scale).round())


def quantized(net: nn.Module, method: str, plan: str, *, images: Tensor) -> list[nn.Module]:
    """Return the layers with weights of a simulation."""
    sim = find_method(method).quantize(
        prepare(net, example=images[:1]),
        example=images[:1],
        plan=parse_plan(plan),
        batches=lambda: iter(images.split(8)),
        input_range=(0.0, 1.0),
    )
    return [layer for layer in sim.model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 6, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        nn.Conv2d(8, 4, (1, 3), padding=(0, 1), groups=2),
        nn.Linear(8, 5),
    ],
)
def test_rows_times_weights_are_the_layers_output(layer: nn.Module) -> None:
    """What AdaRound learns on is the layer: stride, padding, dilation and groups included."""
    source = torch.randn(2, 8, 8, 8)
    layer.input_quantizers = [None]
    with torch.no_grad():
        output = layer(source)
    visit = Visit(name="layer", layer=layer, source=source, output=output)
    where = adaround.places(output, visit)
    sample = adaround.sample_of(visit, wanted=adaround.rows_of(output, layer=layer, where=where))
    weight = layer.weight.reshape(len(sample.source), -1, sample.source.shape[-1])
    assert sample.source.shape[1] == output.numel() // output.shape[visit.axis]
    assert float(sample.error(weight)) < 1e-8
    assert float(sample.error(1.1 * weight)) > 1e-3


def test_reestimation_restores_the_statistics_of_folded_norms() -> None:
    """Four bits move mean and variance of every channel; the norm behind the last layer puts them back."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.BatchNorm2d(8)
    )
    net.train()(images())
    net.eval()
    errors = {}
    for method in ("minmax", "bn-reestimation"):
        wanted, found = outputs(net, method, "w4a8", images=images())
        mean = (wanted.mean((0, 2, 3)) - found.mean((0, 2, 3))).abs().max()
        errors[method] = float(mean), float((wanted.std((0, 2, 3)) / found.std((0, 2, 3)) - 1).abs().max())
    assert errors["bn-reestimation"][0] < 0.3 * errors["minmax"][0]
    assert errors["bn-reestimation"][1] < 0.3 * errors["minmax"][1]


def test_reestimation_leaves_layers_without_a_norm_alone() -> None:
    plain, again = (
        quantized(three_layers(), name, "w4a8", images=images()) for name in ("minmax", "bn-reestimation")
    )
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(plain, again, strict=True))


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
