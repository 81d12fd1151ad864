"""AIMET's automatic mixed precision as a plan to compare with."""

from __future__ import annotations

import torch
from aimet_torch.amp.utils import _mock_v1_quantizers
from net import SmallTask, images

from hexpath_quant.agreement import sqnr_db
from hexpath_quant.planning.amp import amp_plan, twin_of
from hexpath_quant.plans import parse_plan
from hexpath_quant.ptq import score, simulate
from hexpath_quant.sim import forward_of


def test_the_twin_follows_quantizers_that_amp_turns_off(make_sim):
    sim, pictures = make_sim("w8a8"), images(2, seed=3)
    with torch.no_grad(), _mock_v1_quantizers(sim):
        before = forward_of(sim.model)(pictures)
        for name, module in sim.model.named_modules():
            if name.startswith("block") and hasattr(module, "output_quantizers"):
                for quantizer in [*module.output_quantizers, *module.param_quantizers.values()]:
                    quantizer.enabled = quantizer.enabled and False
        wanted = forward_of(sim.model)(pictures)
        found = twin_of(sim)(pictures)
        again = forward_of(sim.model)(pictures)
    for a, b, c, d in zip(wanted, found, again, before, strict=True):
        assert sqnr_db(reference=a.numpy(), found=b.numpy()) > 90
        assert torch.equal(a, c)
        assert not torch.equal(a, d)


def test_its_choice_is_a_plan_that_keeps_to_the_drop():
    task = SmallTask()
    low, high = (
        score(task, sim=simulate(task, plan=parse_plan(plan), method="minmax", calibration=8))["map"]
        for plan in ("w8a8", "w8a16")
    )
    allowed = 1 - (low + high) / 2  # the float net scores 1
    plan, calls = amp_plan(task, method="minmax", calibration=8, max_drop=allowed)
    assert plan.regions == {"amp": "w8a16"}
    found = score(task, sim=simulate(task, plan=plan, method="minmax", calibration=8))["map"]
    assert low < found < high
    assert "stem.0" in plan.modules["amp"]
    assert calls.outputs > calls.scores > 3
