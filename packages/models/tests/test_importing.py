"""Ultralytics' .pt files come in; what hides in a pickle stays outside."""

from __future__ import annotations

import datetime
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NAMES, randomize_statistics
from torch import nn

from hexpath_models import errors
from hexpath_models.checkpoint import load_checkpoint
from hexpath_models.dataset import read_dataset
from hexpath_models.export import export
from hexpath_models.importing import import_checkpoint
from hexpath_models.prepare import Head
from hexpath_models.registry import build, build_network, find_model


def as_ultralytics_saves(model: nn.Module) -> dict[str, object]:
    """Return the dictionary that Ultralytics' trainer pickles."""
    return {
        "epoch": 3,
        "best_fitness": np.float64(0.5),
        "model": None,
        "ema": model.half(),
        "updates": 10,
        "optimizer": {"state": {}, "param_groups": []},
        "train_args": {"imgsz": 320, "model": "yolo11n.yaml"},
        "train_metrics": {"fitness": np.float64(0.5)},
        "date": datetime.datetime(2026, 1, 1).isoformat(),
        "version": "8.4.190",
    }


@pytest.mark.parametrize("name", ["yolo11n", "yolo11s"])
def test_import_keeps_the_weights(tmp_path: Path, name: str) -> None:
    model = build(find_model(name), names=NAMES)
    randomize_statistics(model)
    model.args = {"imgsz": 320}
    torch.save(as_ultralytics_saves(model), tmp_path / "best.pt")
    card = import_checkpoint(tmp_path / "best.pt", out=tmp_path / "model.safetensors")
    assert (card.arch, card.names, card.image_size) == (name, NAMES, (320, 320))
    loaded = load_checkpoint(tmp_path / "model.safetensors")[0].state_dict()
    assert all(
        torch.equal(loaded[key], tensor.to(loaded[key].dtype)) for key, tensor in model.state_dict().items()
    )


class Attack:
    """Runs a command when it is unpickled the ordinary way."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


class EvalAttack(Attack):
    """The same through eval."""

    def __reduce__(self) -> tuple[object, ...]:
        return eval, (f"__import__('os').system({self.command!r})",)


@pytest.mark.parametrize(("attack", "refused"), [(Attack, r"(posix|nt)\.system"), (EvalAttack, "eval")])
def test_malicious_pickle_is_refused_and_not_run(tmp_path: Path, attack: type[Attack], refused: str) -> None:
    victim = tmp_path / "victim"
    torch.save({"model": attack(f"touch {victim}")}, tmp_path / "evil.pt")
    with pytest.raises(errors.UnsafeFileError, match=f"asks for {refused}, which is not on the list"):
        import_checkpoint(tmp_path / "evil.pt", out=tmp_path / "out")
    assert not victim.exists()
    assert not (tmp_path / "out").exists()
    pickle.loads(pickle.dumps(attack(f"touch {victim}")))
    assert victim.exists(), "the attack would work: the test means something"


def test_bare_malicious_pickle_is_not_even_opened(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Attack(f"touch {victim}")))
    with pytest.raises(errors.CorruptCheckpointError, match=r"damaged or no \.pt file: not an archive"):
        import_checkpoint(tmp_path / "evil.pt", out=tmp_path / "out")
    assert not victim.exists()


class StrangersModule(nn.Module):
    """A class that is on no list."""


def test_unknown_class_is_named(tmp_path: Path) -> None:
    torch.save({"model": StrangersModule()}, tmp_path / "m.pt")
    with pytest.raises(errors.UnsafeFileError, match=r"asks for \S*StrangersModule"):
        import_checkpoint(tmp_path / "m.pt", out=tmp_path / "out")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(errors.MissingCheckpointError, match="no such file"):
        import_checkpoint(tmp_path / "m.pt", out=tmp_path / "out")


def test_truncated_file(tmp_path: Path) -> None:
    torch.save({"a": torch.rand(1000)}, tmp_path / "m.pt")
    (tmp_path / "m.pt").write_bytes((tmp_path / "m.pt").read_bytes()[:2000])
    with pytest.raises(errors.CorruptCheckpointError, match="fetch it anew"):
        import_checkpoint(tmp_path / "m.pt", out=tmp_path / "out")


def test_plain_state_dict_holds_no_model(tmp_path: Path) -> None:
    torch.save({"weight": torch.rand(3)}, tmp_path / "m.pt")
    with pytest.raises(errors.ForeignFileError, match="holds no Ultralytics model"):
        import_checkpoint(tmp_path / "m.pt", out=tmp_path / "out")


def test_other_task(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import PoseModel

    torch.save({"model": PoseModel("yolo11n-pose.yaml", nc=1, verbose=False)}, tmp_path / "m.pt")
    expected = "holds a PoseModel, this needs a DetectionModel or a SegmentationModel"
    with pytest.raises(errors.WrongTaskError, match=expected):
        import_checkpoint(tmp_path / "m.pt", out=tmp_path / "out")


OTHERS = ["yolov5n", "yolov8n", "yolov8n-seg", "yolov9t", "yolov10n", "yolo11n-seg", "yolo26n", "yolo26n-seg"]
EXPORTED = ["yolov8n-seg", "yolov10n"]


@pytest.mark.parametrize("name", OTHERS)
def test_every_family_comes_in_and_is_exported(tmp_path: Path, data: Path, outlines: Path, name: str) -> None:
    task = "segment" if name.endswith("-seg") else "detect"
    model = build_network(f"{name}.yaml", task=task, names=NAMES)
    randomize_statistics(model)
    model.args = {"imgsz": 90}
    torch.save(as_ultralytics_saves(model), tmp_path / "best.pt")
    out, labels = tmp_path / "model.safetensors", outlines if task == "segment" else data
    card = import_checkpoint(tmp_path / "best.pt", out=out)
    assert (card.arch, card.task, card.names, card.image_size) == (name, task, NAMES, (96, 96))
    loaded = load_checkpoint(out)[0].state_dict()
    assert all(
        torch.equal(loaded[key], tensor.to(loaded[key].dtype)) for key, tensor in model.state_dict().items()
    )
    card = import_checkpoint(tmp_path / "best.pt", out=out, size=(64, 96), dataset=read_dataset(labels))
    assert (card.image_size, card.fingerprint) == ((64, 96), "sha256:test")
    if name in EXPORTED:
        result = export(checkpoint=out, data=labels, head=Head.RAW, out=tmp_path / "export")
        assert result.outputs["boxes_8"][2:] == (8, 12)


def test_a_family_that_cannot_be_deployed_says_so(tmp_path: Path) -> None:
    model = build_network("yolo12n.yaml", task="detect", names=NAMES)
    torch.save({"model": model}, tmp_path / "m.pt")
    with pytest.raises(errors.PreparationError, match="the block A2C2f has no static form here"):
        import_checkpoint(tmp_path / "m.pt", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_changed_architecture_keeps_its_own(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import DetectionModel, yaml_model_load

    content = yaml_model_load("yolo11n.yaml") | {"scales": {"n": [0.5, 0.125, 1024]}}
    model = DetectionModel(content, nc=2, verbose=False)
    model.names = NAMES
    torch.save({"model": model}, tmp_path / "m.pt")
    card = import_checkpoint(tmp_path / "m.pt", out=tmp_path / "out")
    assert card.arch == "yolo11n-changed"
    assert load_checkpoint(tmp_path / "out")[0].state_dict().keys() == model.state_dict().keys()


def test_other_channels_and_unknown_origin(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel("yolo11n.yaml", ch=4, nc=2, verbose=False)
    torch.save({"model": model}, tmp_path / "m.pt")
    with pytest.raises(errors.ForeignFileError, match="takes images of 4 channels, this needs"):
        import_checkpoint(tmp_path / "m.pt", out=tmp_path / "out")
    model.yaml = {}
    torch.save({"model": model}, tmp_path / "m.pt")
    with pytest.raises(errors.ForeignFileError, match="does not say of which architecture it is"):
        import_checkpoint(tmp_path / "m.pt", out=tmp_path / "out")


def test_classes_of_other_data(tmp_path: Path, data: Path) -> None:
    torch.save({"model": build(find_model("yolo11n"), names={0: "one"})}, tmp_path / "m.pt")
    with pytest.raises(errors.ClassMismatchError, match=r"has 2 classes, .* on 1"):
        import_checkpoint(tmp_path / "m.pt", out=tmp_path / "out", dataset=read_dataset(data))
