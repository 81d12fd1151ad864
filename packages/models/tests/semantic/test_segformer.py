"""SegFormer's static forward against transformers' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from hexpath_models import errors
from hexpath_models.semantic.registry import build_semantic, find_semantic
from hexpath_models.semantic.weights import find_published, load_published

CARD = find_semantic("segformer_b0")


def theirs(classes: int) -> Any:
    torch.manual_seed(0)
    model: Any = SegformerForSemanticSegmentation(SegformerConfig(num_labels=classes)).eval()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return model


def test_same_function_and_size(tmp_path: Path) -> None:
    model = theirs(150)
    model.save_pretrained(tmp_path)
    network = build_semantic(CARD, classes=150)
    assert load_published(network, tmp_path) is False
    assert sum(p.numel() for p in network.net.parameters()) / 1e6 == pytest.approx(CARD.params_m, abs=0.06)
    image = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        expected, found = model(image).logits, network.eval().net(image)
    assert found.shape == (1, 150, 24, 16)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    back = network.net.to_theirs()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(back[key], value)


def test_head_for_other_classes(tmp_path: Path) -> None:
    theirs(150).save_pretrained(tmp_path)
    network = build_semantic(CARD, classes=7)
    assert load_published(network, tmp_path) is True
    assert network.net.decode_head.classifier.weight.shape[0] == 7


def test_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEXPATH_ASSETS", raising=False)
    assert str(find_published(CARD)) == CARD.hub
    (tmp_path / "assets" / CARD.weights_files[0]).mkdir(parents=True)
    assert find_published(CARD) == Path("assets") / CARD.weights_files[0]
    with pytest.raises(errors.MissingWeightsError, match=r"finds no SegFormer at .*; put the folder"):
        load_published(build_semantic(CARD, classes=7), find_published(CARD))
