"""Bundles: what is in them, what is refused, and that infer.py finds what evaluate scored."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import squares
from made import Made, read
from PIL import Image

from hexpath_deploy.bundle import archive
from hexpath_deploy.cli import main
from hexpath_deploy.errors import BundleError
from hexpath_deploy.files import sha256_file
from hexpath_deploy.model import read_model
from hexpath_deploy.preprocess import read_image

# Runs infer.py where nothing of hexpath can be imported, and says which packages it took.
ALONE = """
import json, runpy, sys
sys.modules["hexpath_deploy"] = None
before = {name.partition(".")[0] for name in sys.modules}
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
found = {m.partition(".")[0] for m, module in sys.modules.items() if "site-packages" in str(getattr(module,
"__file__", ""))}
print("TAKEN", json.dumps(sorted(found - before)), file=sys.stderr)
"""
ALLOWED = {
    "numpy",
    "PIL",
    "onnxruntime",
    "onnxruntime_qnn",
    "hexpath_reference",
    "google",
    "flatbuffers",
    "packaging",
}


def gates_json(path: Path, model: Path, *, verdict: str = "pass", threshold: float = 0.25) -> Path:
    """Write a verdict with one gate."""
    row = {"gate": "size_mb", "title": "model size", "unit": "MB", "side": "max", "limit": 20, "figure": 1.0}
    row |= {"verdict": verdict, "counts_as": verdict, "note": "", "basis": "size of the file"}
    sha = read_model(model).sha256
    record = {"schema": 1, "verdict": verdict, "threshold": threshold, "gates": [row], "model_sha256": sha}
    path.write_text(json.dumps(record))
    return path


@pytest.fixture(scope="module")
def evaluated(made: Made, compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluations of the artifact and of FP32, and an estimate."""
    folder = tmp_path_factory.mktemp("stages")
    common = ["--coco", str(made.coco)]
    command = ["evaluate", str(made.model), *common, "--out", str(folder / "emulator.json")]
    assert main([*command, "--backend", "emulator", "--compiled", str(compiled), "--images", "3"]) == 0
    assert main(["evaluate", str(made.float_model), *common, "--out", str(folder / "fp32.json")]) == 0
    assert (
        main(["profile", str(made.model), "--target", "qcs9075", "--out", str(folder / "profile.json")]) == 0
    )
    return folder


@pytest.fixture(scope="module")
def packed(made: Made, compiled: Path, evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the squares detector, packed by the command."""
    folder = tmp_path_factory.mktemp("bundles")
    (folder / "LICENCE").write_text("Creative Commons Zero\nmore text\n")
    (folder / "facts.json").write_text(json.dumps({"epochs": 0, "optimizer": "by hand"}))
    gates = gates_json(folder / "gates.json", made.model)
    assert main(command(made, compiled, folder / "squares", gates=gates, evaluated=evaluated)) == 0
    return folder / "squares"


def command(
    made: Made, compiled: Path, out: Path, *, gates: Path | None = None, evaluated: Path | None = None
) -> list[str]:
    """Return a command that packs."""
    words = ["bundle", str(made.model), "--compiled", str(compiled), "--out", str(out)]
    words += ["--gates", str(gates)] if gates else []
    if evaluated is not None:
        files = {"eval": "emulator.json", "fp32": "fp32.json", "profile": "profile.json"}
        words += [word for name, file in files.items() for word in (f"--{name}", str(evaluated / file))]
        words += ["--model-licence", "MIT", "--data-licence", str(out.parent / "LICENCE")]
        words += ["--facts", str(out.parent / "facts.json")]
    return words


def test_what_is_in_it(packed: Path) -> None:
    assert archive.listing(packed) == [
        "gates.json",
        "hexpath_reference.py",
        "infer.py",
        "labels.txt",
        "licences/code.txt",
        "licences/data.txt",
        "licences/model.txt",
        "model.onnx",
        "model_card.json",
        "model_card.md",
        "postprocess.json",
        "preprocess.json",
        "targets/qcs9075/compile.json",
        "targets/qcs9075/model.dlc",
        "targets/qcs9075/model_ctx.bin",
        "targets/qcs9075/model_ctx.onnx",
    ]
    assert (packed / "labels.txt").read_text() == "red\ngreen\n"
    assert read(packed / "preprocess.json")["input"]["dtype"] == "uint8"
    assert read(packed / "postprocess.json")["confidence"] == 0.25
    assert (packed / "licences/data.txt").read_text().startswith("Creative Commons Zero")
    assert "The licence of the model: MIT" in (packed / "licences/model.txt").read_text()
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=packed, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_card(packed: Path) -> None:
    card = read(packed / "model_card.json")
    assert card["released"]
    assert card["accuracy"]["evaluated_on"] == "emulator"
    assert card["accuracy"]["images"] == 3
    assert set(card["accuracy"]["fp32"]["per_class"]) == {"red", "green"}
    assert card["latency"][0]["source"] == "estimate"
    assert card["licences"] == {"model": "MIT", "data": "Creative Commons Zero"}
    assert any("estimate, not measured on a device" in text for text in card["limits"])
    text = (packed / "model_card.md").read_text()
    assert "NOT RELEASED" not in text
    for told in ("optimizer by hand", "| qcs9075 |", "model size", "3 images", "## Limits"):
        assert told in text


@pytest.mark.parametrize("backend", ["emulator", "cpu"])
def test_infer_finds_what_evaluate_scored_without_hexpath(
    made: Made, packed: Path, evaluated: Path, tmp_path: Path, backend: str
) -> None:
    """Unpacked elsewhere, run by a Python that has only numpy, pillow and onnxruntime."""
    unpacked = tmp_path / "some where, ö"
    assert main(["verify", str(packed.with_name("squares.zip")), "--extract", str(unpacked)]) == 0
    image = made.coco.parent / "images" / "0000.png"
    words = [sys.executable, "-c", ALONE, str(unpacked / "infer.py"), str(image), "--confidence", "0.001"]
    words += ["--backend", backend, "--draw", "drawn.png"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    taken = json.loads(next(line for line in done.stderr.splitlines() if line.startswith("TAKEN"))[6:])
    assert set(taken) <= ALLOWED
    assert (told["backend"], told["height"], told["width"]) == (backend, 64, 64)
    assert Image.open(tmp_path / "drawn.png").size == (64, 64)
    if backend == "emulator":
        rows = [
            row
            for row in json.loads((evaluated / "emulator.detections.json").read_text())
            if row["image_id"] == 1
        ]
        names = dict(enumerate(squares.NAMES))
        wanted = [(names[row["category_id"]], row["score"], corners(row["bbox"])) for row in rows]
        assert [(d["class"], d["score"]) for d in told["detections"]] == [row[:2] for row in wanted]
        for found, (_, _, box) in zip(told["detections"], wanted, strict=True):
            assert found["box"] == pytest.approx(box, abs=0.002)
    assert {d["class"] for d in told["detections"][:2]} <= set(squares.NAMES)


def corners(box: list[float]) -> list[float]:
    """Return x0, y0, x1, y1 of x, y, width, height."""
    x, y, width, height = box
    return [x, y, x + width, y + height]


def test_infer_reads_images_as_evaluate_does(packed: Path, tmp_path: Path) -> None:
    import runpy

    inside = runpy.run_path(str(packed / "infer.py"))
    rng = np.random.default_rng(0)
    turned = Image.fromarray(rng.integers(0, 255, (8, 12, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(rng.integers(0, 65535, (8, 12), np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(rng.integers(0, 255, (8, 12), np.uint8)).save(tmp_path / "grey.png")
    for name in ("turned", "deep", "grey"):
        np.testing.assert_array_equal(
            inside["read_image"](tmp_path / f"{name}.png"), read_image(tmp_path / f"{name}.png")
        )
    with pytest.raises(SystemExit, match="no target 'board' in this bundle; it has qcs9075"):
        inside["target_folder"]("board")


def test_the_same_bundle_is_the_same_bytes(made: Made, compiled: Path, packed: Path, tmp_path: Path) -> None:
    gates = gates_json(tmp_path / "gates.json", made.model)
    sums = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert main(command(made, compiled, tmp_path / name / "b", gates=gates)) == 0
        sums.append(sha256_file(tmp_path / name / "b.zip"))
    assert sums[0] == sums[1]
    with zipfile.ZipFile(tmp_path / "one" / "b.zip") as made_zip:
        assert {entry.date_time for entry in made_zip.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_gates_decide(made: Made, compiled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(made, compiled, tmp_path / "b")) == 88
    assert "no gates were judged: give --gates, or --unreleased" in capsys.readouterr().err
    failed = gates_json(tmp_path / "gates.json", made.model, verdict="fail", threshold=0.4)
    assert main(command(made, compiled, tmp_path / "b", gates=failed)) == 88
    assert "1 gates did not pass (size_mb)" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
    assert main([*command(made, compiled, tmp_path / "b", gates=failed), "--unreleased"]) == 0
    assert "NOT RELEASED, gates not passed: size_mb" in capsys.readouterr().out
    assert "**NOT RELEASED: gates not passed: size_mb**" in (tmp_path / "b/model_card.md").read_text()
    assert read(tmp_path / "b/postprocess.json")["confidence"] == 0.4
    unknown = (tmp_path / "b/licences/model.txt").read_text()
    assert "The licence of the model is unknown" in unknown


def test_what_does_not_belong_together(
    made: Made, compiled: Path, evaluated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str, code: int, message: str) -> None:
        base = [*command(made, compiled, tmp_path / "b"), "--unreleased"]
        assert main([*base, *words]) == code
        assert message in capsys.readouterr().err

    other = gates_json(tmp_path / "gates.json", made.model16)
    refused("--gates", str(other), code=81, message="gates.json is of model")
    refused("--eval", str(evaluated / "fp32.json"), code=81, message="fp32.json is of model")
    refused("--compiled", str(compiled), code=88, message="two artifacts for qcs9075")
    refused("--model-licence", "no/such.txt", code=88, message="no such licence file no/such.txt")
    (tmp_path / "card.json").write_text(json.dumps({"fingerprint": "sha256:" + "0" * 64}))
    refused(
        "--data-card", str(tmp_path / "card.json"), code=81, message="the model was trained on sha256:5555"
    )
    assert main(["bundle", str(made.model), "--out", str(tmp_path / "b"), "--unreleased"]) == 88
    assert "no artifact was given" in capsys.readouterr().err
    float_io = [
        "compile",
        str(made.model),
        "--target",
        "sa8775p",
        "--io",
        "float",
        "--out",
        str(tmp_path / "c"),
    ]
    assert main(float_io) == 0
    refused("--compiled", str(tmp_path / "c"), code=88, message="sa8775p has other I/O than that for qcs9075")


def test_weights_in_other_files(made: Made, compiled: Path, tmp_path: Path) -> None:
    from hexpath_deploy.bundle.pack import check_weights

    onnx.save(
        onnx.load(made.model),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="w.bin",
        size_threshold=0,
    )
    with pytest.raises(BundleError, match="keeps its weights in other files"):
        check_weights(read_model(tmp_path / "m.onnx"))


# --- verify -------------------------------------------------------------------------------------------------


def small(folder: Path) -> Path:
    """Write a folder with sums."""
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "sub/b.txt").write_text("b")
    archive.write_sums(folder)
    return folder


def test_verify(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (packed, packed.with_name("squares.zip")):
        assert main(["verify", str(path)]) == 0
        assert "16 files as in SHA256SUMS" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "none.zip")]) == 88
    assert "no such bundle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "a.txt").write_text("x"), r"a\.txt was changed"),
        (lambda f: (f / "a.txt").unlink(), r"a\.txt is missing, though"),
        (lambda f: (f / "new.txt").write_text("x"), r"new\.txt is not listed"),
        (lambda f: (f / "SHA256SUMS").unlink(), "has no SHA256SUMS"),
        (lambda f: (f / "SHA256SUMS").write_text(""), "lists no files"),
        (lambda f: (f / "SHA256SUMS").write_text("what\n"), "line 1 is no checksum"),
        (lambda f: (f / "SHA256SUMS").write_text("0" * 64 + "  ../x\n"), r"'\.\./x' would lie outside"),
        (lambda f: (f / "link").symlink_to("/etc/passwd"), "link is a link"),
    ],
)
def test_a_changed_folder(tmp_path: Path, change: Callable[[Path], Any], message: str) -> None:
    folder = small(tmp_path / "b")
    assert archive.verify(folder) == ["a.txt", "sub/b.txt"]
    change(folder)
    with pytest.raises(BundleError, match=message):
        archive.verify(folder)


def attack(path: Path, *entries: tuple[str, bytes, int]) -> Path:
    """Write a zip with entries (name, bytes, Unix mode)."""
    with zipfile.ZipFile(path, "w") as bad:
        for name, data, mode in entries:
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.external_attr = 3, mode << 16
            bad.writestr(entry, data)
    return path


FILE, LINK = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([("../evil.txt", b"x", FILE)], "would lie outside"),
        ([("b/../../evil.txt", b"x", FILE)], "would lie outside"),
        ([("/etc/evil.txt", b"x", FILE)], "would lie outside"),
        ([("C:/evil.txt", b"x", FILE)], "would lie outside"),
        ([("b/..\\evil.txt", b"x", FILE)], "would lie outside"),
        ([("b//evil.txt", b"x", FILE)], "would lie outside"),
        ([("b/link", b"/etc/passwd", LINK)], "is a link"),
        ([("b/a", b"x", FILE), ("b/a", b"y", FILE)], "stands there twice"),
        ([("b/a", b"x", FILE), ("c/a", b"y", FILE)], "do not lie in one folder"),
        ([("a", b"x", FILE)], "do not lie in one folder"),
        ([("b/a", b"x", FILE)], "has no SHA256SUMS"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_that_would_do_harm(
    tmp_path: Path, entries: list[tuple[str, bytes, int]], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = attack(tmp_path / "bad.zip", *entries)
    assert main(["verify", str(bad), "--extract", str(tmp_path / "out" / "deep")]) == 88
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["bad.zip"]


def test_a_zip_that_is_none_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no.zip").write_bytes(b"PK no zip")
    with pytest.raises(BundleError, match="is no bundle"):
        archive.verify(tmp_path / "no.zip")
    archive.write_zip(small(tmp_path / "b"), tmp_path / "b.zip")
    assert archive.verify(tmp_path / "b.zip") == ["a.txt", "sub/b.txt"]
    whole = (tmp_path / "b.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match="is no bundle"):
        archive.verify(tmp_path / "cut.zip")
    monkeypatch.setattr(archive, "MOST_BYTES", 1)
    with pytest.raises(BundleError, match="would unpack to"):
        archive.verify(tmp_path / "b.zip")
