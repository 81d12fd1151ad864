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


def test_from_the_hub_up_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetched(place: str, **_: Any) -> Any:
        asked.append(place)
        return theirs(150)

    monkeypatch.setattr(SegformerForSemanticSegmentation, "from_pretrained", fetched)
    network = build_semantic(CARD, classes=7)
    assert load_published(network, Path(CARD.hub)) is True
    assert asked == ["nvidia/segformer-b0-finetuned-ade-512-512"]


@pytest.mark.parametrize("folder", [False, True])
def test_training_from_a_folder_and_without_a_network(
    run: Any, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEXPATH_ASSETS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    if folder:
        theirs(150).save_pretrained(tmp_path / "assets" / CARD.weights_files[0])
    flags = ("--epochs", 1, "--imgsz", 64, "--batch", 4, "--pretrained")
    places = ("--data", masks, "--out", tmp_path / "out", "--work", tmp_path / "work")
    result = run("train", "--model", "segformer_b0", *places, *flags)
    if folder:
        assert result.code == 0, result.err
        assert "a new head for 3 classes" in result.err
        return
    assert result.code == errors.MissingWeightsError.exit_code
    assert f"transformers finds no SegFormer at {CARD.hub}" in result.err
    assert "put the folder (config.json, model.safetensors) into assets/" in result.err


@pytest.mark.parametrize("fusion", ["early", "once"])
def test_deployed_network_is_the_same_function(fusion: str) -> None:
    """Batch norm with statistics of its own, sizes that no resize divides evenly."""
    network = build_semantic(CARD, classes=5, options={"fusion": fusion})
    head: Any = network.net.decode_head
    torch.manual_seed(1)
    head.batch_norm.running_mean.normal_()
    head.batch_norm.running_var.uniform_(0.5, 2)
    head.batch_norm.weight.data.uniform_(0.5, 2)
    head.batch_norm.bias.data.normal_()
    for module in head.modules():
        if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
            module.bias.data.normal_()
    net: Any = network.eval().net
    image = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        expected, found = net(image), net.deployed()(image)
    assert net.deployed() is not net
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    late: Any = build_semantic(CARD, classes=5, options={"fusion": "late"}).net
    assert late.deployed() is late
