"""Heads of a linear attention on one scale: the same function, ranges that are alike, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hexpath_models.errors import OptionError
from hexpath_models.nets.ddrnet import ddrnet23_slim
from hexpath_models.nets.efficientvit import HEAD_DIM, Attention, LinearAttention, efficientvit_seg_b1
from hexpath_models.nets.equalize import LIMIT, equalize_attention


def uneven(attention: Attention, *, floor: float = 0.0) -> nn.Module:
    """Random weights; the heads' q, k and v differ in range, and one head is dead."""
    torch.manual_seed(0)
    net = efficientvit_seg_b1(classes=4, attention=attention, floor=floor).eval()
    for module in net.modules():
        if isinstance(module, LinearAttention):
            heads = module.heads // 2
            parts = module.qkv.conv.weight.data.unflatten(0, (heads, 3, HEAD_DIM))
            parts *= torch.logspace(-1, 1, heads * 3).view(heads, 3, 1, 1, 1, 1)
            parts[0, 1] = 0
    return net


def spread(net: nn.Module, images: Tensor, part: Callable[..., Tensor]) -> float:
    """The largest over the smallest range of a head's tensor that is not 0, the worst attention's."""
    found = []

    def hook(module: LinearAttention, inputs: tuple[Tensor], output: Tensor) -> None:
        ranges = part(*module.heads_of(module.qkv(inputs[0]))).abs().amax((0, 2, 3))
        found.append(float(ranges.max() / ranges[ranges > 0].min()))

    handles = [m.register_forward_hook(hook) for m in net.modules() if isinstance(m, LinearAttention)]
    with torch.no_grad():
        net(images)
    for handle in handles:
        handle.remove()
    return max(found)


@pytest.mark.parametrize("attention", Attention)
def test_the_function_stays_and_the_ranges_meet(attention: Attention) -> None:
    net, images = uneven(attention), torch.rand(2, 3, 64, 96)
    parts = [lambda q, k, v: v, lambda q, k, v: k.sum(-1, keepdim=True).transpose(-1, -2) @ q]
    with torch.no_grad():
        before = net(images)
    uneven_by = [spread(net, images, part) for part in parts]
    assert equalize_attention(net, [images[:1], images[1:]]) == 7
    with torch.no_grad():
        after = net(images)
    torch.testing.assert_close(after, before, rtol=0, atol=2e-5 * float(before.abs().max()))
    assert all(spread(net, images, part) < 0.5 * was for part, was in zip(parts, uneven_by, strict=True)), (
        uneven_by
    )
    for module in net.modules():
        if isinstance(module, LinearAttention):
            assert torch.isfinite(module.proj.conv.weight).all()


def test_no_factor_is_beyond_the_limit() -> None:
    net, images = uneven(Attention.SPLIT), torch.rand(1, 3, 64, 64)
    module = next(m for m in net.modules() if isinstance(m, LinearAttention))
    module.qkv.conv.weight.data[2 * HEAD_DIM : 3 * HEAD_DIM] *= 1e-6
    was = module.qkv.conv.weight.data.clone()
    equalize_attention(net, [images])
    changed = (module.qkv.conv.weight / was)[was != 0]
    assert changed.max() <= LIMIT * 1.001


def test_what_is_refused() -> None:
    with pytest.raises(OptionError, match="no linear attention; leave the option out"):
        equalize_attention(ddrnet23_slim(classes=4), [])
    with pytest.raises(OptionError, match="choose one"):
        equalize_attention(uneven(Attention.SPLIT, floor=0.1), [])
