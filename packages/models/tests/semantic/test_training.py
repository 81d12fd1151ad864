"""Training: outputs, rates, resume, and what stays at home."""

from __future__ import annotations

import csv
import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hexpath_models import errors
from hexpath_models.semantic.checkpoint import load_semantic, read_semantic_card, save_semantic
from hexpath_models.semantic.config import SemanticConfig
from hexpath_models.semantic.registry import build_semantic, find_semantic
from hexpath_models.semantic.task import semantic
from hexpath_models.semantic.training import (
    STATISTICS,
    Average,
    measure_statistics,
    parameter_groups,
    rate_factor,
)
from hexpath_models.semantic.weights import read_raw


def arguments(data: Path, folder: Path, **changes: object) -> list[object]:
    values = {"model": "ddrnet23_slim", "imgsz": 64, "batch": 4, "epochs": 2, "lr": 3e-3, **changes}
    flags = [part for key, value in values.items() for part in (f"--{key.replace('_', '-')}", value)]
    return ["train", "--data", data, "--out", folder / "out", "--work", folder / "work", *flags]


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "out" / "history.csv").open()))


def test_outputs_and_that_it_learns(run: Any, masks: Path, tmp_path: Path) -> None:
    result = run(*arguments(masks, tmp_path, epochs=8, ema=0.5), "--no-bfloat16")
    assert result.code == 0, result.err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    history = rows(tmp_path)
    assert list(history[0]) == ["epoch", "train_loss", "miou", "pixel_accuracy", "lr", "seconds"]
    assert [row["epoch"] for row in history] == [str(epoch) for epoch in range(1, 9)]
    assert metrics["miou"] == pytest.approx(max(float(row["miou"]) for row in history), abs=1e-4)
    assert float(history[-1]["train_loss"]) < float(history[0]["train_loss"])
    assert metrics["fingerprint"] == "sha256:test"
    assert "epoch 8/8" in result.err
    again = run(*arguments(masks, tmp_path, epochs=8, ema=0.5), "--no-bfloat16")
    assert again.code == 0
    assert "epoch" not in again.err  # nothing left to train


def test_windows_of_the_deployed_size(run: Any, masks: Path, tmp_path: Path) -> None:
    result = run(*arguments(masks, tmp_path, epochs=1, deploy="96x128"), "--no-bfloat16")
    assert result.code == 0, result.err
    assert read_semantic_card(tmp_path / "out" / "model.safetensors").image_size == (96, 128)
    options = {"crop": "64"}
    task = semantic(checkpoint=tmp_path / "out" / "model.safetensors", data=masks, options=options)
    images, _ = next(task.training(batch=2, epoch=0, seed=0))
    assert images.shape[-2:] == (64, 64)
    assert task.samples(1).shape[-2:] == (96, 128)


def first_means(network: Any, task: Any) -> torch.Tensor:
    """Of each channel behind the first convolution, over whole images."""
    batches = [images for images in task.calibration(STATISTICS) if len(images) > 1]
    with torch.no_grad():
        means = [network.net.conv1[0](network.normalize(images)).mean((0, 2, 3)) for images in batches]
    return torch.stack(means).mean(0)


@pytest.mark.parametrize("deploy", ["96x128", "64"])
def test_batch_norms_of_windows_or_of_whole_images(
    run: Any, masks: Path, tmp_path: Path, deploy: str
) -> None:
    """Whichever score more; where windows are whole images there is nothing to choose."""
    result = run(*arguments(masks, tmp_path, epochs=1, deploy=deploy), "--no-bfloat16")
    assert result.code == 0, result.err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    scores, checkpoint = metrics["miou_by_statistics"], tmp_path / "out" / "model.safetensors"
    assert list(scores) == ["windows", "whole images"][: 1 + (deploy == "96x128")]
    assert metrics["miou"] == scores[metrics["statistics"]] == max(scores.values())
    task, (network, _) = semantic(checkpoint=checkpoint, data=masks), load_semantic(checkpoint)
    net: Any = network.net
    found = torch.allclose(net.conv1[1].running_mean, first_means(network, task), atol=1e-4)
    assert found == (metrics["statistics"] == "whole images")
    measure_statistics(network, task)
    torch.testing.assert_close(net.conv1[1].running_mean, first_means(network, task), atol=1e-4, rtol=0)


def test_whole_images_are_those_of_the_last_epoch(run: Any, masks: Path, tmp_path: Path) -> None:
    """Where windows' batch norms do not fit, the best score by them says little; here it is made useless."""
    command = [*arguments(masks, tmp_path, epochs=3, deploy="96x128"), "--no-bfloat16"]
    assert run(*command).code == 0
    best = tmp_path / "work" / "best.safetensors"
    network, card = load_semantic(best)
    with torch.no_grad():
        head: Any = network.net
        head.final_layer.conv2.weight.zero_()
        head.final_layer.conv2.bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
    save_semantic(best, network, card=card)
    again = run(*command)
    assert again.code == 0, again.err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["statistics"], metrics["best_epoch"]) == ("whole images", 3)
    kept, _ = load_semantic(tmp_path / "out" / "model.safetensors")
    average = read_raw(tmp_path / "work" / "last.pt")["average"]
    torch.testing.assert_close(kept.state_dict()["net.conv1.0.weight"], average["net.conv1.0.weight"])


def test_killed_training_goes_on_as_if_it_had_not_been(run: Any, masks: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(*arguments(masks, whole, epochs=4), "--no-bfloat16").code == 0
    flags = [*map(str, arguments(masks, killed, epochs=4)), "--no-bfloat16"]
    command = [sys.executable, "-m", "hexpath_models.cli", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("epoch 2/4"):
                process.send_signal(signal.SIGKILL)
                break
    assert not (killed / "out").exists()
    result = run(*flags)
    assert result.code == 0, result.err
    assert "going on after epoch" in result.err
    assert "epoch 1/4" not in result.err
    for a, b in zip(rows(whole), rows(killed), strict=True):
        assert float(a["train_loss"]) == pytest.approx(float(b["train_loss"]), rel=0.02)


def test_other_arguments_and_a_damaged_state_start_afresh(run: Any, masks: Path, tmp_path: Path) -> None:
    assert run(*arguments(masks, tmp_path, epochs=1)).code == 0
    last = tmp_path / "work" / "last.pt"
    last.write_bytes(last.read_bytes()[:9999])
    result = run(*arguments(masks, tmp_path, epochs=1))
    assert result.code == 0
    assert "cannot go on from" in result.err
    assert "epoch 1/1" in result.err
    result = run(*arguments(masks, tmp_path, epochs=1, seed=1))
    assert "holds a run with other arguments; starting afresh" in result.err


def test_authors_weights_for_another_class_count(
    run: Any, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = build_semantic(find_semantic("ddrnet23_slim"), classes=19).net
    (tmp_path / "assets").mkdir()
    file = tmp_path / "assets" / "best_val_smaller.pth"
    torch.save({"state_dict": {f"model.{key}": value for key, value in net.state_dict().items()}}, file)
    monkeypatch.setenv("HEXPATH_ASSETS", str(file.parent))
    result = run(*arguments(masks, tmp_path, epochs=1), "--pretrained")
    assert result.code == 0, result.err
    assert "a new head for 3 classes" in result.err
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["start"] == "best_val_smaller.pth"
    assert metrics["rates"] == {"backbone": pytest.approx(3e-4), "head": pytest.approx(3e-3)}


def test_own_weights_for_other_classes(run: Any, masks: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(*arguments(masks, first, epochs=1)).code == 0
    other = masks.with_name("other.yaml")
    other.write_text(masks.read_text().replace("ground", "grass"))
    trained = first / "out" / "model.safetensors"
    result = run(*arguments(other, second, epochs=1, lr=1e-9, ema=0, weights=trained))
    assert result.code == 0, result.err
    assert "a new head for the 3 classes" in result.err
    (before, _), (after, card) = (load_semantic(f / "out" / "model.safetensors") for f in (first, second))
    assert "grass" in card.names.values()
    one, two = before.net.state_dict(), after.net.state_dict()
    for key in ("conv1.0.weight", before.net.head_keys[0]):
        assert torch.allclose(one[key], two[key], atol=1e-6) == (key not in before.net.head_keys)


def test_a_trained_network_is_taken_at_another_size(
    run: Any, masks: Path, ddrnet: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.safetensors"
    result = run("import", ddrnet, "--data", masks, "--imgsz", "96x128", "--out", out)
    assert result.code == 0, result.err
    assert "ddrnet23_slim (semantic), 3 classes, at 96x128" in result.out
    assert read_semantic_card(out).image_size == (96, 128)
    other = masks.with_name("other.yaml")
    other.write_text(masks.read_text().replace("ground", "grass"))
    result = run("import", ddrnet, "--data", other, "--out", tmp_path / "other.safetensors")
    assert result.code == errors.ClassMismatchError.exit_code
    assert not (tmp_path / "other.safetensors").exists()


def test_missing_weights(run: Any, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HEXPATH_ASSETS", raising=False)
    result = run(*arguments(masks, tmp_path), "--pretrained")
    assert result.code == errors.MissingWeightsError.exit_code
    assert "ddrnet23_slim_cityscapes.pth" in result.err


def test_rates_of_backbone_and_head() -> None:
    network = build_semantic(find_semantic("ddrnet23_slim"), classes=3)
    groups = parameter_groups(network, backbone=1e-4, head=1e-3)
    counts = {
        peak: sum(p.numel() for g in groups if g["peak"] == peak for p in g["params"])
        for peak in (1e-4, 1e-3)
    }
    head = sum(p.numel() for p in network.net.final_layer.parameters())
    assert counts[1e-3] == head
    assert sum(counts.values()) == sum(p.numel() for p in network.net.parameters())
    assert all(p.ndim > 1 for g in groups if g["decays"] for p in g["params"])


def test_schedules() -> None:
    for schedule in ("cosine", "poly"):
        factors = [rate_factor(step, steps=100, warmup=10, schedule=schedule) for step in range(100)]
        assert factors[0] < 0.1
        assert max(factors) == pytest.approx(1.0)
        assert all(a <= b for a, b in itertools.pairwise(factors[:11]))
        assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
        assert factors[-1] < 0.05


def test_average_follows_and_stays_finite() -> None:
    network = torch.nn.BatchNorm1d(2)
    average = Average(network, decay=0.9)
    network.weight.data.fill_(3.0)
    for _ in range(2000):
        average.update(network)
    torch.testing.assert_close(average.network.weight, network.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "focl"}, r"unknown loss 'focl'; did you mean 'focal'\?"),
        ({"schedule": "cosin"}, r"unknown schedule 'cosin'; did you mean 'cosine'\?"),
        ({"weighting": "balance"}, r"unknown class weights 'balance'; did you mean 'balanced'\?"),
        ({"batch": 1}, "batch is 1, batch norm over a pooled map needs at least 2"),
        ({"epochs": 0}, "epochs is 0, it must be at least 1"),
        ({"lr": -1.0}, r"lr -1\.0 and backbone-lr None must be above 0"),
        ({"ema": 1.0}, r"ema 1\.0 must be in \[0, 1\)"),
        ({"device": "tpu"}, "device 'tpu' is not cpu, cuda or cuda:N"),
        ({"imgsz": "100"}, "image size '100' is not a multiple of 32"),
        ({"deploy": "100"}, "image size '100' is not a multiple of 32"),
        ({"model": "yolo11n"}, "unknown segmentation network 'yolo11n'"),
    ],
)
def test_bad_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(
        errors.OptionError if "model" not in changes else errors.UnknownModelError, match=message
    ):
        SemanticConfig(**changes)


def test_a_divergence_is_told(run: Any, masks: Path, tmp_path: Path) -> None:
    result = run(*arguments(masks, tmp_path, lr=1e30, clip=1e30, warmup=0), "--no-bfloat16")
    assert result.code in (errors.TrainingError.exit_code, errors.NonFiniteWeightsError.exit_code)
    assert not (tmp_path / "out").exists()


def test_curves_go_to_weights_and_biases_offline(
    run: Any, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "tracking"))
    monkeypatch.setenv("WANDB_RUN_GROUP", "the-group")
    (tmp_path / "tracking").mkdir()
    result = run(*arguments(masks, tmp_path, epochs=1))
    assert result.code == 0, result.err
    (record,) = (tmp_path / "tracking").glob("wandb/offline-run-*/run-*.wandb")
    content = record.read_bytes()
    assert all(text in content for text in (b"miou", b"train_loss", b"the-group"))
