"""The networks written here against their authors' implementations."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hexpath_models.nets.ddrnet import ddrnet23_slim
from hexpath_models.nets.efficientvit import Attention, Upsampling, efficientvit_seg_b1

ORACLES = Path(__file__).parent / "oracles"
NETS = {
    "ddrnet23_slim": lambda: ddrnet23_slim(classes=19),
    "efficientvit_seg_b1": lambda: efficientvit_seg_b1(classes=19),
}


def oracle(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ORACLES / f"{name}.json").read_text())
    return found


def value(key: str, shape: tuple[int, ...], salt: int) -> np.ndarray[Any, Any]:
    """Return the entry that the rule gives to a key; the first matching line counts."""
    numbers = np.random.default_rng([zlib.crc32(key.encode()), salt])
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape)
    if key.endswith("running_var"):
        return numbers.uniform(0.5, 1.5, shape)
    if key.endswith("running_mean"):
        return numbers.normal(0, 0.1, shape)
    if len(shape) >= 2:
        return numbers.normal(0, (1 / np.prod(shape[1:])) ** 0.5, shape)
    if key.endswith(".weight"):
        return numbers.uniform(0.5, 1.5, shape)
    return numbers.normal(0, 0.1, shape)


def fill(net: torch.nn.Module, *, salt: int) -> None:
    state = net.state_dict()
    net.load_state_dict(
        {key: torch.tensor(value(key, tuple(t.shape), salt)).to(t.dtype) for key, t in state.items()}
    )


def deviation(net: torch.nn.Module, name: str) -> float:
    """Return norm(output - oracle) / norm(oracle) over the sampled positions."""
    expected, samples = oracle(name), np.load(ORACLES / f"{name}.npz")
    fill(net, salt=expected["salt"])
    image = np.random.default_rng(1).standard_normal(expected["input_shape"]).astype(np.float32)
    with torch.no_grad():
        output = net.eval()(torch.from_numpy(image))
    assert list(output.shape) == expected["output_shape"]
    found = output.flatten().numpy()[samples["index"]]
    return float(np.linalg.norm(found - samples["value"]) / np.linalg.norm(samples["value"]))


@pytest.mark.parametrize("name", list(NETS))
def test_keys_shapes_and_parameters(name: str) -> None:
    net, expected = NETS[name](), oracle(name)
    assert {key: list(tensor.shape) for key, tensor in net.state_dict().items()} == expected["state_dict"]
    assert sum(parameter.numel() for parameter in net.parameters()) == expected["parameters"]


@pytest.mark.parametrize("name", list(NETS))
def test_outputs(name: str) -> None:
    assert deviation(NETS[name](), name) < 1e-5


def test_split_attention_is_the_same_function() -> None:
    net = efficientvit_seg_b1(classes=19, attention=Attention.SPLIT)
    assert deviation(net, "efficientvit_seg_b1") < 1e-5


def test_bilinear_upsampling_is_another_function() -> None:
    net = efficientvit_seg_b1(classes=19, upsampling=Upsampling.BILINEAR)
    assert 1e-3 < deviation(net, "efficientvit_seg_b1") < 0.05


def test_a_floor_changes_the_function() -> None:
    net = efficientvit_seg_b1(classes=19, attention=Attention.SPLIT, floor=0.5)
    assert deviation(net, "efficientvit_seg_b1") > 1e-3
    joint = efficientvit_seg_b1(classes=19, attention=Attention.JOINT, floor=0.5).eval()
    joint.load_state_dict(net.state_dict())
    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(joint(images), net.eval()(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", list(NETS))
def test_sides_need_not_be_multiples_of_64(name: str) -> None:
    net = NETS[name]().eval()
    with torch.no_grad():
        assert net(torch.zeros(1, 3, 96, 160)).shape == (1, 19, 12, 20)
