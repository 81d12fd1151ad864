"""The audit on the networks that it was made for: DDRNet23-Slim safe, EfficientViT-B1-seg not, and why."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hexpath_models.nets.ddrnet import ddrnet23_slim
from hexpath_models.nets.efficientvit import Upsampling, efficientvit_seg_b1
from hexpath_quant.audit.findings import Audit
from hexpath_quant.audit.run import audit
from hexpath_quant.audit.traced import network_of
from hexpath_quant.plans import parse_precision


def audited(network: nn.Module, *, plan: str = "w8a8") -> Audit:
    """Batch norms see some images first, as after training."""
    torch.manual_seed(0)
    network.train()
    with torch.no_grad():
        for _ in range(4):
            network(torch.rand(2, 3, 128, 128))
    found = network_of(network.eval(), batches=[torch.rand(2, 3, 128, 128)])
    return audit(found, plan=parse_precision(plan), model=type(network).__name__, images=2)


def test_ddrnet_is_safe() -> None:
    torch.manual_seed(0)
    assert audited(ddrnet23_slim(classes=7)).verdict == "safe"


@pytest.mark.parametrize("plan", ["w8a8", "w8a16"])
def test_efficientvit_is_not_and_its_attention_is_named(plan: str) -> None:
    torch.manual_seed(0)
    found = audited(efficientvit_seg_b1(classes=7, upsampling=Upsampling.BILINEAR), plan=plan)
    assert found.verdict == "unsafe"
    severe = {(f.rule, f.where.split(".context_module")[0]) for f in found.findings if f.severity == "severe"}
    assert {rule for rule, _ in severe} <= {"division", "epsilon"}
    assert {where for _, where in severe} <= {
        f"backbone.stages.{stage}.op_list.{block}" for stage in (2, 3) for block in (1, 2, 3, 4)
    }
