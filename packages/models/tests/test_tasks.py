"""The detection task, by the promises of the Task protocol."""

from __future__ import annotations

import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import write_dataset

from hexpath_models import errors
from hexpath_models.checkpoint import load_checkpoint
from hexpath_models.dataset import read_dataset
from hexpath_models.loading import dataset_class, default_settings
from hexpath_models.tasks import DetectionTask, yolo, yolo_detect, yolo_segment


@pytest.fixture(scope="module")
def task(checkpoint: Path, data: Path) -> DetectionTask:
    return yolo_detect(checkpoint=checkpoint, data=data, options={})


def test_protocol_members(task: DetectionTask) -> None:
    assert task.name == "yolo-detect"
    assert task.input_names == ("images",)
    assert task.output_names == ("boxes_8", "scores_8", "boxes_16", "scores_16", "boxes_32", "scores_32")
    assert task.example.shape == (1, 3, 64, 64)
    assert task.example.dtype == torch.float32


def test_metadata_describes_the_file_to_deploy(task: DetectionTask) -> None:
    assert {key: task.metadata[key] for key in ("task", "names", "imgsz", "stride", "batch")} == {
        "task": "detect",
        "names": "{0: 'red', 1: 'blue'}",
        "imgsz": "[64, 64]",
        "stride": "32",
        "batch": "1",
    }
    assert task.metadata["hexpath.fingerprint"] == "sha256:test"
    outputs = json.loads(task.metadata["hexpath.outputs"])
    assert outputs["levels"][0] == {"stride": 8, "boxes": "boxes_8", "scores": "scores_8"}
    assert (outputs["format"], outputs["reg_max"], outputs["scores"]) == ("yolo-raw", 16, "logits")
    assert json.loads(task.metadata["hexpath.input"])["pad_value"] == 114


@pytest.mark.parametrize("head", ["raw", "decoded", "plain"])
def test_score_equals_ultralytics_validator(
    checkpoint: Path, data: Path, tmp_path: Path, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = yolo_detect(checkpoint=checkpoint, data=data, options={"head": head})
    result = task.score(task.float_model())
    assert result.map > 0.15, "a model that finds nothing proves nothing"

    import ultralytics.data.build
    from ultralytics import YOLO

    monkeypatch.setattr(ultralytics.data.build, "YOLODataset", dataset_class())
    description = task.dataset.for_ultralytics()
    (tmp_path / "data.yaml").write_text(
        yaml.safe_dump({key: description[key] for key in ("train", "val", "names")})
    )
    own = YOLO("yolo11n.yaml")
    own.model = load_checkpoint(checkpoint)[0]
    box = own.val(
        data=tmp_path / "data.yaml",
        imgsz=64,
        rect=False,
        batch=4,
        device="cpu",
        plots=False,
        verbose=False,
        project=str(tmp_path),
    ).box
    assert result.map == pytest.approx(box.map, abs=1e-4)
    assert result.map50 == pytest.approx(box.map50, abs=1e-4)
    assert [result.per_class[name]["map"] for name in ("red", "blue")] == pytest.approx(
        list(box.maps), abs=1e-4
    )


def own_validator(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> Any:
    """Return the metrics that `yolo val` prints for a checkpoint."""
    import ultralytics.data.build
    from ultralytics import YOLO

    monkeypatch.setattr(ultralytics.data.build, "YOLODataset", dataset_class())
    description = read_dataset(data).for_ultralytics()
    (tmp_path / "data.yaml").write_text(
        yaml.safe_dump({key: description[key] for key in ("train", "val", "names")})
    )
    model, card = load_checkpoint(checkpoint)
    own = YOLO(card.config)
    own.model = model
    settings = {"imgsz": 64, "rect": False, "batch": 4, "device": "cpu", "plots": False, "verbose": False}
    return own.val(data=tmp_path / "data.yaml", project=str(tmp_path), **settings, **options)


def test_masks_score_as_ultralytics_validator_says(
    mask_checkpoint: Path, outlines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = own_validator(mask_checkpoint, outlines, tmp_path, monkeypatch)
    assert own.seg.map > 0.1, "a model that finds nothing proves nothing"
    for head in ("raw", "decoded", "plain"):
        task = yolo_segment(checkpoint=mask_checkpoint, data=outlines, options={"head": head})
        result = task.score(task.float_model())
        found = (result.map, result.map50, result.mask_map, result.mask_map50)
        expected = (own.box.map, own.box.map50, own.seg.map, own.seg.map50)
        assert found == pytest.approx(expected, abs=1e-4)
        assert [result.per_class[name]["mask_map"] for name in ("red", "blue")] == pytest.approx(
            list(own.seg.maps), abs=1e-4
        )
    assert list(task.evaluate(task.float_model())) == ["mask_map", "mask_map50", "map", "map50"]


@pytest.mark.parametrize(("branch", "nms"), [("one-to-one", False), ("one-to-many", None)])
def test_branches_score_as_ultralytics_validator_says(
    free_checkpoint: Path,
    data: Path,
    tmp_path: Path,
    branch: str,
    nms: bool | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = own_validator(free_checkpoint, data, tmp_path, monkeypatch, nms=nms)
    task = yolo_detect(checkpoint=free_checkpoint, data=data, options={"branch": branch})
    result = task.score(task.float_model())
    assert (result.map, result.map50) == pytest.approx((own.box.map, own.box.map50), abs=1e-4)
    if branch == "one-to-one":
        assert result.map > 0.05, "a model that finds nothing proves nothing"


def test_evaluate_puts_the_maximized_metric_first(task: DetectionTask) -> None:
    assert list(task.evaluate(task.float_model())) == ["map", "map50"]


def test_by_class_and_on_fewer_images(task: DetectionTask) -> None:
    seen: list[int] = []
    network = task.float_model()

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append(len(images))
        return network(images)

    classes = task.evaluate_classes(forward, images=2)
    assert sum(seen) == 2
    assert set(classes) <= set(task.card.names.values())
    mean = sum(figures["map"] for figures in classes.values()) / max(len(classes), 1)
    assert task.evaluate(network, images=2)["map"] == pytest.approx(mean)


def test_image_limit(checkpoint: Path, data: Path) -> None:
    task = yolo_detect(checkpoint=checkpoint, data=data, options={"images": "3"})
    seen: list[int] = []
    network = task.float_model()

    def forward(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append(len(images))
        return network(images)

    task.evaluate(forward)
    assert sum(seen) == 3


def test_training_depends_on_seed_and_epoch_alone(task: DetectionTask) -> None:
    def epoch(seed: int, number: int) -> list[torch.Tensor]:
        batches = []
        for batch in task.training(batch=8, epoch=number, seed=seed):
            np.random.rand(3)
            torch.rand(3)
            batches.append(task.images(batch))
        return batches

    first, again, other_epoch, other_seed = epoch(0, 1), epoch(0, 1), epoch(0, 2), epoch(1, 1)
    assert len(first) == task.steps(8) == 2
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other_epoch[0])
    assert not torch.equal(first[0], other_seed[0])


def test_training_leaves_the_callers_random_numbers_alone(task: DetectionTask) -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    list(task.training(batch=8, epoch=0, seed=0))
    assert torch.equal(torch.rand(2), expected)


def test_calibration_is_the_training_split_unaugmented(task: DetectionTask) -> None:
    batches = list(task.calibration(10))
    images = torch.cat(batches)
    assert images.shape == (10, 3, 64, 64)
    assert images.dtype == torch.float32
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert torch.equal(images, torch.cat(list(task.calibration(10))))
    assert torch.cat(list(task.calibration(999))).shape[0] == 16, "never more than there are"


def test_samples_are_rgb_letterboxed(checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    data = write_dataset(tmp_path)
    for file in (tmp_path / "images" / "val").iterdir():
        Image.new("RGB", (64, 32), (255, 0, 51)).save(file)
    image = yolo_detect(checkpoint=checkpoint, data=data).samples(1)[0]
    assert image[:, 32, 32].tolist() == pytest.approx([1.0, 0.0, 0.2])
    assert image[:, 2, 32].tolist() == pytest.approx([114 / 255] * 3)


def test_loss_is_ultralytics_own(task: DetectionTask, checkpoint: Path) -> None:
    batch = next(task.training(batch=8, epoch=0, seed=0))
    loss = task.loss(task.float_model()(task.images(batch)), batch)
    loss.backward()
    own, _ = load_checkpoint(checkpoint)
    own.args = default_settings()
    expected = own.loss({**batch, "img": task.images(batch)})[0].sum() / 8
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_mask_loss_is_ultralytics_own(mask_checkpoint: Path, outlines: Path) -> None:
    task = yolo_segment(checkpoint=mask_checkpoint, data=outlines)
    batch = next(task.training(batch=8, epoch=0, seed=0))
    loss = task.loss(task.float_model()(task.images(batch)), batch)
    own, _ = load_checkpoint(mask_checkpoint)
    own.args = default_settings(task="segment")
    expected = own.loss({**batch, "img": task.images(batch)})[0].sum() / 8
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_branch_losses_are_ultralytics_own(free_checkpoint: Path, data: Path) -> None:
    own, _ = load_checkpoint(free_checkpoint)
    own.args = default_settings()
    both = own.init_criterion()
    for branch in ("one-to-one", "one-to-many"):
        task = yolo_detect(checkpoint=free_checkpoint, data=data, options={"branch": branch})
        batch = next(task.training(batch=8, epoch=0, seed=0))
        loss = task.loss(task.float_model()(task.images(batch)), batch)
        predictions = own(task.images(batch))[1]
        part = {"one-to-one": both.one2one, "one-to-many": both.one2many}[branch]
        key = {"one-to-one": "one2one", "one-to-many": "one2many"}[branch]
        expected = part.loss(predictions[key], batch)[0].sum() / 8
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_tasks_take_their_own_checkpoints(mask_checkpoint: Path, data: Path, outlines: Path) -> None:
    assert yolo(checkpoint=mask_checkpoint, data=outlines).name == "yolo-segment"
    with pytest.raises(errors.WrongTaskError, match="'segment', this needs one for 'detect'"):
        yolo_detect(checkpoint=mask_checkpoint, data=outlines)
    with pytest.raises(errors.DataFileError, match="masks need polygons in the label files"):
        yolo_segment(checkpoint=mask_checkpoint, data=data).samples(1)


def test_loss_of_a_decoded_head(checkpoint: Path, data: Path) -> None:
    task = yolo_detect(checkpoint=checkpoint, data=data, options={"head": "decoded"})
    with pytest.raises(errors.LossError, match="this task has head=decoded; use head=raw"):
        task.loss((torch.zeros(1),), {})


def test_user_folder_is_left_alone(task: DetectionTask, data: Path) -> None:
    list(task.calibration(4))
    task.evaluate(task.float_model())
    assert {file.suffix for file in data.parent.rglob("*") if file.is_file()} == {".png", ".txt", ".yaml"}


def test_truncated_jpeg_is_not_rewritten(checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    data = write_dataset(tmp_path)
    file = tmp_path / "images" / "val" / "100.jpg"
    Image.new("RGB", (64, 64)).save(file)
    file.write_bytes(content := file.read_bytes()[:-2])
    with pytest.raises(errors.DataFileError, match=r"100\.jpg is a truncated JPEG"):
        yolo_detect(checkpoint=checkpoint, data=data).samples(1)
    assert file.read_bytes() == content


def test_unreadable_image_is_named(checkpoint: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path)
    (tmp_path / "images" / "val" / "100.jpg").write_bytes(b"")
    with pytest.raises(errors.DataFileError, match=r"cannot read image .*100\.jpg"):
        yolo_detect(checkpoint=checkpoint, data=data).samples(1)


def test_empty_split(checkpoint: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path)
    for file in (tmp_path / "images" / "val").iterdir():
        file.unlink()
    with pytest.raises(errors.DataFileError, match=r"the val split cannot be read: .*No images found"):
        yolo_detect(checkpoint=checkpoint, data=data).samples(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"haed": "raw"}, r"unknown option 'haed' of yolo-detect; did you mean 'head'\?"),
        ({"head": "rwa"}, r"unknown head 'rwa'"),
        ({"imgsz": "60"}, r"image size '60' is not a multiple of 32"),
        ({"images": "0"}, r"option images='0' must be a positive number"),
    ],
)
def test_bad_options(checkpoint: Path, data: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(errors.OptionError, match=message):
        yolo_detect(checkpoint=checkpoint, data=data, options=options)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "train: images/train\nval: images/val\nnames: [red]",
            errors.ClassMismatchError,
            "has 1 classes, .* on 2",
        ),
        (
            "train: images/train\nval: images/val\nnames: [red, green]",
            errors.ClassMismatchError,
            "class 1 is 'green'",
        ),
        ("val: images/val\nnames: [red, blue]", errors.DataFileError, "has no 'train'"),
        (
            "train: a\nval: b\nnames: [red, blue]",
            errors.DataFileError,
            "train points to .*, which does not exist",
        ),
        (
            "train: images/train\nval: images/val",
            errors.DataFileError,
            "names must number the classes 0 to N-1",
        ),
        ("train: images/train\nval: images/val\nnames: {a: b}", errors.DataFileError, "no class number"),
        ("- a", errors.DataFileError, "holds a list, expected keys"),
        ("a: [", errors.DataFileError, "is no YAML"),
    ],
)
def test_bad_data_files(
    checkpoint: Path, data: Path, tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    file = tmp_path / "data.yaml"
    file.write_text(f"path: {data.parent}\n{text}" if text[0] not in "-a" else text)
    with pytest.raises(error, match=message):
        yolo_detect(checkpoint=checkpoint, data=file)


def test_missing_data_file(checkpoint: Path) -> None:
    with pytest.raises(errors.DataFileError, match=r"no such data\.yaml: nope\.yaml"):
        yolo_detect(checkpoint=checkpoint, data=Path("nope.yaml"))


@pytest.mark.parametrize(
    ("name", "factory"), [("yolo", yolo), ("yolo-detect", yolo_detect), ("yolo-segment", yolo_segment)]
)
def test_entry_point(name: str, factory: object) -> None:
    found = [point for point in entry_points(group="hexpath.tasks") if point.name == name]
    if not found:
        pytest.skip("hexpath-models is not installed, only on the path")
    assert found[0].load() is factory


def test_calibration_takes_the_images_of_a_list_in_its_order(
    checkpoint: Path, data: Path, tmp_path: Path, task: DetectionTask
) -> None:
    root = read_dataset(data).train[0]
    images = sorted(path for path in root.rglob("*") if path.suffix in (".jpg", ".png"))
    chosen = tmp_path / "chosen.txt"
    chosen.write_text(f"{images[3]}\n{images[1]}\n{images[0]}\n")
    listed = yolo_detect(checkpoint=checkpoint, data=data, options={"calibration": str(chosen)})
    everything = torch.cat(list(task.calibration(len(images))))
    found = torch.cat(list(listed.calibration(2)))
    assert torch.equal(found, everything[[3, 1]])
    assert len(torch.cat(list(listed.calibration(99)))) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such list of images: .*; `hexpath-data select` writes one"),
        ("\n", "names no image; give one a line"),
        ("../val/9.jpg\n", "names ../val/9.jpg, which is no image of the training split"),
    ],
)
def test_wrong_calibration_lists_are_refused(
    checkpoint: Path, data: Path, tmp_path: Path, text: str | None, message: str
) -> None:
    chosen = tmp_path / "chosen.txt"
    if text is not None:
        chosen.write_text(text)
    task = yolo_detect(checkpoint=checkpoint, data=data, options={"calibration": str(chosen)})
    with pytest.raises(errors.DataFileError, match=message):
        next(task.calibration(1))
