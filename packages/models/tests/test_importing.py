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
from hexpath_models.importing import import_checkpoint
from hexpath_models.registry import build, find_model


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
    from ultralytics.nn.tasks import SegmentationModel

    torch.save({"model": SegmentationModel("yolo11n-seg.yaml", nc=2, verbose=False)}, tmp_path / "m.pt")
    with pytest.raises(errors.WrongTaskError, match="holds a SegmentationModel, this needs a DetectionModel"):
        import_checkpoint(tmp_path / "m.pt", out=tmp_path / "out")


def test_other_detector(tmp_path: Path) -> None:
    from ultralytics.nn.tasks import DetectionModel

    torch.save({"model": DetectionModel("yolov8n.yaml", nc=2, verbose=False)}, tmp_path / "m.pt")
    with pytest.raises(errors.ForeignFileError, match="is none of yolo11n, yolo11s"):
        import_checkpoint(tmp_path / "m.pt", out=tmp_path / "out")
