from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made import Made, read

from hexpath_deploy.cli import main
from hexpath_deploy.coco import read_split, score, to_results
from hexpath_deploy.errors import DatasetError, OptionError
from hexpath_deploy.evaluate import score_on
from hexpath_deploy.reference.hexpath_reference import Detections
from hexpath_deploy.scoring import check_names, sample


def perfect(coco: Path) -> list[dict[str, Any]]:
    """Return the boxes of a COCO file as detections."""
    return [
        {"image_id": box["image_id"], "category_id": box["category_id"], "bbox": box["bbox"], "score": 0.9}
        for box in json.loads(coco.read_text())["annotations"]
    ]


def test_perfect_detections(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    split = read_split(made.coco)
    found = score(split, perfect(made.coco), image_ids=range(1, 13))
    assert found.metrics == {"map50": pytest.approx(1), "map": pytest.approx(1)}
    assert set(found.per_class) == {"red", "green"}
    assert capsys.readouterr().out == "", "pycocotools prints, we do not"


def test_half_shifted_boxes(made: Made) -> None:
    """Boxes of 24 pixels shifted by 6 overlap by 18/30 = 0.6: they count at 0.50, 0.55 and 0.60,
    so 3 of 10.
    """
    results = [
        {**result, "bbox": [result["bbox"][0] + 6, *result["bbox"][1:]]} for result in perfect(made.coco)
    ]
    found = score(read_split(made.coco), results, image_ids=range(1, 13))
    assert found.metrics["map50"] == pytest.approx(1)
    assert found.metrics["map"] == pytest.approx(0.3)


def test_no_detections_is_zero(made: Made) -> None:
    found = score(read_split(made.coco), [], image_ids=range(1, 13))
    assert found.metrics == {"map50": 0, "map": 0}


def test_only_the_given_images_count(made: Made) -> None:
    results = [result for result in perfect(made.coco) if result["image_id"] <= 6]
    split = read_split(made.coco)
    assert score(split, results, image_ids=range(1, 7)).metrics["map50"] == pytest.approx(1)
    assert score(split, results, image_ids=range(1, 13)).metrics["map50"] < 0.8


def test_images_without_boxes(made: Made, tmp_path: Path) -> None:
    data = json.loads(made.coco.read_text())
    (tmp_path / "empty.json").write_text(json.dumps({**data, "annotations": []}))
    with pytest.raises(DatasetError, match="hold no boxes"):
        score(read_split(tmp_path / "empty.json"), [], image_ids=[1])


def test_class_order(made: Made) -> None:
    with pytest.raises(
        DatasetError, match=r"class 0 is 'green' in the model's metadata and 'red'.*wrong class order"
    ):
        check_names(["green", "red"], read_split(made.coco).names, path=made.coco)
    with pytest.raises(DatasetError, match="the model has 1 classes"):
        check_names(["red"], read_split(made.coco).names, path=made.coco)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such COCO file"),
        ("{", "is no COCO file"),
        ("[]", "is no COCO file"),
        ('{"images": [], "categories": [], "annotations": []}', "holds no images"),
    ],
)
def test_no_coco(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "val.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_split(tmp_path / "val.json")


def test_sample_is_spread_and_sorted(made: Made) -> None:
    split = read_split(made.coco)
    assert [image["id"] for image in sample(split.images, 3)] == [1, 7, 12]
    assert len(sample(split.images, None)) == len(sample(split.images, 99)) == 12
    with pytest.raises(OptionError, match="at least one image"):
        sample(split.images, 0)


def test_results_are_xywh() -> None:
    found = Detections(
        boxes=np.array([[1, 2, 4, 8]], np.float32),
        scores=np.array([0.5], np.float32),
        classes=np.array([1]),
        coefficients=np.zeros((1, 0), np.float32),
    )
    assert to_results(found, image_id=3, categories=[10, 20]) == [
        {"image_id": 3, "category_id": 20, "bbox": [1, 2, 3, 6], "score": 0.5}
    ]


def test_evaluate_float_model(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "eval.json"
    assert main(["evaluate", str(made.float_model), "--coco", str(made.coco), "--out", str(out)]) == 0
    record = read(out)
    assert record["metrics"]["map50"] == pytest.approx(1)
    assert record["metrics"]["map"] > 0.9
    assert record["images"] == 12
    assert record["sample"] == "all"
    assert "run in float32" in record["note"]
    results = json.loads((tmp_path / record["detections"]).read_text())
    assert score_on(record, results=results, image_ids=[1, 2])["map50"] == pytest.approx(1)
    with pytest.raises(OptionError, match="was not evaluated on image 99"):
        score_on(record, results=results, image_ids=[99])


def test_other_dataset_warns(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(made.coco.read_text())
    data["info"]["fingerprint"] = "sha256:" + "9" * 64
    (tmp_path / "other.json").write_text(json.dumps(data))
    command = [
        "evaluate",
        str(made.model),
        "--coco",
        str(tmp_path / "other.json"),
        "--out",
        str(tmp_path / "e.json"),
    ]
    assert main([*command, "--images", "2"]) == 0
    assert "was trained on dataset sha256:555" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--backend", "emulater"], 83, "did you mean 'emulator'"),
        (["--backend", "emulator"], 83, "give its folder with --compiled"),
        (["--workers", "0"], 83, "--workers 0: at least one is needed"),
        (["--threads", "0"], 83, "--threads 0: at least one is needed"),
        (["--images", "0"], 83, "evaluate at least one image"),
    ],
)
def test_bad_options(
    made: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    command = ["evaluate", str(made.model), "--coco", str(made.coco), "--out", str(tmp_path / "e.json")]
    assert main([*command, *arguments]) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
