"""A few images of coloured rectangles, and a detector that has learned them."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "disabled"

import contextlib
import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from made_masks import write_checkpoint, write_masks
from PIL import Image, ImageDraw

from hexpath_models.checkpoint import CheckpointCard, save_checkpoint
from hexpath_models.cli import main
from hexpath_models.registry import build, find_model
from hexpath_models.tasks import yolo

NAMES = {0: "red", 1: "blue"}
COLORS = [(220, 40, 40), (40, 60, 230)]


def write_dataset(
    root: Path, *, train: int = 16, val: int = 8, size: int = 64, outlines: bool = False
) -> Path:
    """Write images with two rectangles each, and return data.yaml; outlines: labels are polygons."""
    numbers = random.Random(0)
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            image = Image.new("RGB", (size, size), (90, 100, 90))
            lines = []
            for _ in range(2):
                label, w, h = numbers.randrange(2), numbers.randint(12, 24), numbers.randint(12, 24)
                x, y = numbers.randint(0, size - w), numbers.randint(0, size - h)
                ImageDraw.Draw(image).rectangle([x, y, x + w - 1, y + h - 1], fill=COLORS[label])
                box = [x + w / 2, y + h / 2, w, h]
                corners = [x, y, x + w, y, x + w, y + h, x, y + h]
                values = [value / size for value in (corners if outlines else box)]
                lines.append(" ".join(map(str, [label, *values])))
            image.save(root / "images" / split / f"{index:03}.png")
            (root / "labels" / split / f"{index:03}.txt").write_text("\n".join(lines))
    data = root / "data.yaml"
    data.write_text(
        "path: .\ntrain: images/train\nval: images/val\nnames: {0: red, 1: blue}\nfingerprint: sha256:test\n"
    )
    return data


def make_card(**changes: object) -> CheckpointCard:
    """Return the card of a yolo11n for the test classes."""
    values: dict[str, object] = {
        "arch": "yolo11n",
        "task": "detect",
        "names": NAMES,
        "image_size": (64, 64),
        "stride": 32,
        "reg_max": 16,
        "fingerprint": "sha256:test",
    }
    return CheckpointCard(**{**values, **changes})  # type: ignore[arg-type]


def randomize_statistics(model: torch.nn.Module) -> None:
    """Give every BatchNorm statistics that a wrong fold or a missed layer would show."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.8, 1.2)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("rectangles"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A yolo11n that finds most rectangles, trained with the task's own batches and loss."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    return trained(path, data=data, name="yolo11n")


@pytest.fixture(scope="session")
def outlines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images, labelled by polygons."""
    return write_dataset(tmp_path_factory.mktemp("outlines"), outlines=True)


@pytest.fixture(scope="session")
def mask_checkpoint(tmp_path_factory: pytest.TempPathFactory, outlines: Path) -> Path:
    """A yolo11n-seg that finds most rectangles."""
    path = tmp_path_factory.mktemp("masks") / "model.safetensors"
    return trained(path, data=outlines, name="yolo11n-seg")


@pytest.fixture(scope="session")
def free_checkpoint(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A yolo26n whose one-to-one branch finds some rectangles."""
    path = tmp_path_factory.mktemp("free") / "model.safetensors"
    return trained(path, data=data, name="yolo26n")


def trained(path: Path, *, data: Path, name: str, epochs: int = 24) -> Path:
    """Write a checkpoint that has learned some of the rectangles, with the task's own batches and loss."""
    torch.manual_seed(0)
    known = find_model(name)
    card = make_card(arch=name, task=known.task, reg_max=known.reg_max)
    model = build(known, names=NAMES)
    save_checkpoint(path, model, card=card)
    task = yolo(checkpoint=path, data=data)
    network = task.float_model().train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3)
    for epoch in range(epochs):
        for batch in task.training(batch=8, epoch=epoch, seed=0):
            optimizer.zero_grad()
            task.loss(network(task.images(batch)), batch).backward()
            optimizer.step()
    model.load_state_dict(network.state_dict(), strict=False)
    save_checkpoint(path, model, card=card)
    return path


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture(scope="session")
def run() -> Run:
    """Run hexpath-models in this process: importing torch anew for each call would cost most of the time."""

    def command(*arguments: object) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([str(argument) for argument in arguments])
        return Outcome(code=code, out=out.getvalue(), err=err.getvalue())

    return command


@pytest.fixture(scope="session")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data.yaml of images with id masks."""
    return write_masks(tmp_path_factory.mktemp("masks"))


@pytest.fixture(scope="session")
def ddrnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DDRNet23-Slim with random weights."""
    return write_checkpoint(tmp_path_factory.mktemp("ddrnet") / "model.safetensors")
