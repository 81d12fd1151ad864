"""Checkpoints, the task, and the exported file."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from made_masks import NAMES, write_checkpoint
from safetensors.torch import load_file, save_file

from hexpath_models import errors
from hexpath_models.semantic.checkpoint import is_semantic, load_semantic
from hexpath_models.semantic.task import semantic


def test_checkpoint_comes_back(ddrnet: Path, checkpoint: Path) -> None:
    network, card = load_semantic(ddrnet)
    assert (card.names, card.image_size, card.arch) == (NAMES, (64, 64), "ddrnet23_slim")
    assert not network.training
    assert is_semantic(ddrnet)
    assert not is_semantic(checkpoint)
    assert not is_semantic(ddrnet.with_name("other.safetensors"))
    with pytest.raises(
        errors.WrongTaskError, match="is a checkpoint for 'detect', this needs one for 'semantic'"
    ):
        load_semantic(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"mean": "[0, 0, 0]"},
            r"trained with mean \[0, 0, 0\] and std .*, ddrnet23_slim has .*; train again",
        ),
        ({"hexpath.schema": "9"}, "has schema 9, this version reads 1"),
        ({"imgsz": "[3]"}, "has unreadable metadata"),
        ({"mean": None}, "lacks the metadata mean; was it written by hexpath"),
    ],
)
def test_wrong_metadata(ddrnet: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    from safetensors import safe_open

    with safe_open(ddrnet, framework="pt") as file:
        metadata = {**file.metadata(), **change}
    path = tmp_path / "model.safetensors"
    save_file(load_file(ddrnet), path, {key: value for key, value in metadata.items() if value is not None})
    with pytest.raises(errors.CheckpointMetadataError, match=message):
        load_semantic(path)


def test_task_has_what_the_protocol_asks_for(ddrnet: Path, masks: Path) -> None:
    task = semantic(checkpoint=ddrnet, data=masks)
    network = task.float_model()
    assert task.example.shape == (1, 3, 64, 64)
    assert network(task.example)[0].shape == (1, 3, 8, 8)
    assert sum(len(batch) for batch in task.calibration(6)) == 6
    assert task.samples(3).shape == (3, 3, 64, 64)
    assert 0 <= float(task.samples(3).min()) < float(task.samples(3).max()) <= 1
    batches = list(task.training(batch=4, epoch=1, seed=2))
    assert len(batches) == task.steps(4) == 2
    again = list(task.training(batch=4, epoch=1, seed=2))
    assert all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(batches, again, strict=True)
    )
    assert not torch.equal(next(task.training(batch=4, epoch=2, seed=2))[0], batches[0][0])
    task.loss(network.train()(task.images(batches[0])), batches[0]).backward()
    found = task.evaluate(task.float_model())
    assert list(found) == ["miou", "pixel_accuracy"]
    assert set(task.evaluate_classes(task.float_model(), images=2)) == {"ground", "red", "blue"}


def test_perfect_outputs_score_one(ddrnet: Path, masks: Path) -> None:
    task = semantic(checkpoint=ddrnet, data=masks)
    truths = iter([task.dataset.read(item)[1] for item in task.dataset.val])

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        truth = torch.stack([next(truths) for _ in images]).clamp_max(2).long()
        return (torch.nn.functional.one_hot(truth, 3).permute(0, 3, 1, 2).float(),)

    assert task.evaluate(forward)["miou"] == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imgz": "64"}, r"unknown option 'imgz' of semantic; did you mean 'imgsz'\?"),
        ({"attention": "split"}, "unknown option 'attention' of semantic"),
        ({"images": "0"}, "option images='0' must be a positive number"),
        ({"loss": "focl"}, r"option loss='focl'; did you mean 'focal'\?"),
        ({"output": "fll"}, r"option output='fll'; did you mean 'full'\?"),
        ({"equalize": "0"}, "option equalize='0' must be a positive number"),
        ({"equalize": "2"}, "equalize: this network has no linear attention; leave the option out"),
    ],
)
def test_options(ddrnet: Path, masks: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(errors.OptionError, match=message):
        semantic(checkpoint=ddrnet, data=masks, options=options)


def test_architecture_is_chosen_after_training(tmp_path: Path, masks: Path) -> None:
    path = write_checkpoint(tmp_path / "m.safetensors", model="efficientvit_seg_b1")
    joint = semantic(checkpoint=path, data=masks)
    split = semantic(checkpoint=path, data=masks, options={"attention": "split"})
    with torch.no_grad():
        a, b = joint.float_model()(joint.example)[0], split.float_model()(joint.example)[0]
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(a.abs().max()))


def test_equalized_heads_are_the_same_network(tmp_path: Path, masks: Path) -> None:
    path = write_checkpoint(tmp_path / "m.safetensors", model="efficientvit_seg_b1")
    plain = semantic(checkpoint=path, data=masks).float_model()
    task = semantic(checkpoint=path, data=masks, options={"equalize": "2"})
    equal = task.float_model()
    with torch.no_grad():
        a, b = plain(task.example)[0], equal(task.example)[0]
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4 * float(a.abs().max()))
    changed = [key for key, value in plain.state_dict().items() if not value.equal(equal.state_dict()[key])]
    assert len(changed) == 3 * 7
    assert all("context_module" in key for key in changed)


def test_export(run: Any, ddrnet: Path, masks: Path, tmp_path: Path) -> None:
    result = run("export", ddrnet, "--data", masks, "--out", tmp_path / "export", "--imgsz", "64x96")
    assert result.code == 0, result.err
    model = onnx.load(tmp_path / "export" / "model.onnx")
    props = {entry.key: entry.value for entry in model.metadata_props}
    assert props["task"] == "semantic"
    assert ast.literal_eval(props["names"]) == NAMES
    assert json.loads(props["imgsz"]) == [64, 96]
    outputs = json.loads(props["hexpath.outputs"])
    assert outputs == {"format": "semantic", "logits": "logits", "stride": 8, "ignore": 255}
    assert json.loads(props["hexpath.input"])["resize"] == "stretch"
    recorded = np.load(tmp_path / "export" / "recorded.npz")
    assert recorded["images"].shape == (4, 3, 64, 96)
    assert recorded["logits"].shape == (4, 3, 8, 12)


def test_full_size_output(ddrnet: Path, masks: Path) -> None:
    task = semantic(checkpoint=ddrnet, data=masks, options={"output": "full"})
    assert task.float_model()(task.example)[0].shape == (1, 3, 64, 64)
    assert json.loads(task.metadata["hexpath.outputs"])["stride"] == 1
