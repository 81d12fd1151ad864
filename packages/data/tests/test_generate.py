from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import hexpath_data.generator as module
from hexpath_data import GENERATOR_VERSION, generate, render
from hexpath_data.errors import DiskFullError, OutputError, OutputExistsError, ParameterError

SMALL = {"train": 5, "val": 2, "size": 64, "seed": 1}


def tree_of(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def in_another_process(out: Path, *, workers: int) -> None:
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    command = [sys.executable, "-m", "hexpath_data.cli", "generate", str(out), *options]
    environment = {**os.environ, "PYTHONHASHSEED": str(workers), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*command, f"--workers={workers}"], check=True, env=environment, capture_output=True)


def test_bytes_are_equal_across_processes_and_worker_counts(tmp_path: Path) -> None:
    generate(tmp_path / "here", **SMALL)
    in_another_process(tmp_path / "one", workers=1)
    in_another_process(tmp_path / "two", workers=2)
    expected = tree_of(tmp_path / "here")
    assert len(expected) == 4 * 7 + 4
    assert tree_of(tmp_path / "one") == expected
    assert tree_of(tmp_path / "two") == expected


def test_an_image_does_not_depend_on_how_many_are_made(tmp_path: Path) -> None:
    generate(tmp_path / "few", **{**SMALL, "train": 2})
    generate(tmp_path / "many", **SMALL)
    few, many = tree_of(tmp_path / "few"), tree_of(tmp_path / "many")
    images = [name for name in few if name.startswith(("images", "labels", "masks", "thermal"))]
    assert {name: few[name] for name in images} == {name: many[name] for name in images}


def test_seeds_and_splits_differ() -> None:
    first, second, val = (render(size=64, seed=seed) for seed in ((0, 0, 0), (1, 0, 0), (0, 1, 0)))
    assert not np.array_equal(first.rgb, second.rgb)
    assert not np.array_equal(first.rgb, val.rgb)


def test_layers_are_aligned_and_typed(scenes: Path) -> None:
    root = scenes.parent
    for image in sorted((root / "images" / "train").iterdir()):
        rgb = Image.open(image)
        thermal = Image.open(root / "thermal" / "train" / f"{image.stem}.png")
        mask = Image.open(root / "masks" / "train" / f"{image.stem}.png")
        assert (rgb.mode, thermal.mode, mask.mode) == ("RGB", "L", "L")
        assert rgb.size == thermal.size == mask.size == (96, 96)
        assert set(np.unique(np.asarray(mask))) <= {0, 1, 2, 3, 4, 5, 6, 255}


def test_boxes_are_the_tight_bounds_of_the_masks() -> None:
    for index in range(6):
        frame = render(size=160, seed=(0, 0, index))
        assert frame.instances
        for instance in frame.instances:
            x0, y0, x1, y1 = instance.box
            assert instance.mask[y0:y1, x0:x1].sum() == instance.mask.sum()
            edges = (
                (y0, slice(x0, x1)),
                (y1 - 1, slice(x0, x1)),
                (slice(y0, y1), x0),
                (slice(y0, y1), x1 - 1),
            )
            assert all(instance.mask[edge].any() for edge in edges)


def test_objects_are_dynamic_terrain() -> None:
    frame = render(size=160, seed=(0, 0, 1))
    for instance in frame.instances:
        assert np.isin(frame.terrain[instance.mask], (6, 255)).all()


def test_the_population_has_every_class_terrain_and_time() -> None:
    frames = [render(size=96, seed=(0, 0, index)) for index in range(80)]
    classes = {instance.class_id for frame in frames for instance in frame.instances}
    terrain = set(np.unique(np.concatenate([np.unique(frame.terrain) for frame in frames])))
    assert classes == {0, 1, 2}
    assert terrain == {0, 1, 2, 3, 4, 5, 6, 255}
    assert {frame.time_of_day for frame in frames} == {"day", "dusk", "night"}
    assert all(30 <= frame.altitude_m <= 50 for frame in frames)
    assert all(len(frame.instances) <= 12 for frame in frames)


def test_data_yaml_records_the_generator(scenes: Path) -> None:
    content = yaml.safe_load(scenes.read_text())
    expected = {"version": GENERATOR_VERSION, "train": 6, "val": 3, "size": 96, "seed": 3}
    assert content["hexpath"]["generator"] == expected
    assert content["names"] == {0: "person", 1: "vehicle", 2: "motorcycle"}
    rows = [json.loads(line) for line in (scenes.parent / "meta.jsonl").read_text().splitlines()]
    assert len(rows) == 9
    assert set(rows[0]) == {"split", "file_name", "altitude_m", "time_of_day"}


def test_a_complete_set_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hexpath_data.cli import main

    data = generate(tmp_path / "set", **SMALL)
    (tmp_path / "set" / "labels" / "train.cache").write_text("what a trainer leaves behind")
    before = data.stat().st_mtime_ns
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    assert main(["generate", str(tmp_path / "set"), *options]) == 0
    assert "complete, nothing to do" in capsys.readouterr().out
    assert data.stat().st_mtime_ns == before


def test_a_set_of_other_parameters_is_refused(scenes: Path) -> None:
    with pytest.raises(OutputExistsError, match=r"holds another dataset .*wanted"):
        generate(scenes.parent, **SMALL)


def test_a_set_with_missing_files_is_refused(tmp_path: Path) -> None:
    generate(tmp_path / "set", **SMALL)
    (tmp_path / "set" / "labels" / "val" / "val_000000.txt").unlink()
    with pytest.raises(OutputExistsError, match=r"lacks 1 files of the set, such as labels/val/val_000000"):
        generate(tmp_path / "set", **SMALL)


def test_a_foreign_folder_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"not empty and holds no data\.yaml"):
        generate(tmp_path, **SMALL)
    with pytest.raises(OutputExistsError, match="is a file"):
        generate(tmp_path / "diary.txt", **SMALL)
    assert (tmp_path / "diary.txt").read_text() == "mine"


def test_an_empty_folder_and_a_leftover_partial_are_taken(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set.partial").mkdir()
    (tmp_path / "set.partial" / "leftover").write_text("of a killed run")
    generate(tmp_path / "set", **SMALL)
    assert not (tmp_path / "set" / "leftover").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": 0}, "train is 0; a split needs 1"),
        ({"val": -1}, "val is -1"),
        ({"size": 330}, "size is 330; give a multiple of 32 in 64 to 2048, nearest 320"),
        ({"seed": -2}, "seed is -2"),
        ({"workers": 0}, "workers is 0"),
        ({"labels": "masks"}, r"labels is 'masks'; there are: boxes, segments"),
    ],
)
def test_parameters_out_of_range(tmp_path: Path, change: dict[str, int | str], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        generate(tmp_path / "set", **{**SMALL, **change})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Path] = []
    real = Path.write_bytes

    def fill_up(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(DiskFullError, match="the disk filled up while writing"):
        generate(tmp_path / "set", **SMALL)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_parent_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*set: Not a directory"):
        generate(tmp_path / "file" / "set", **SMALL)


def test_an_interrupt_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hexpath_data.cli import main

    real, calls = module._make, []

    def interrupt(item: module._Item) -> module._Made:
        calls.append(item)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(item)

    monkeypatch.setattr(module, "_make", interrupt)
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    assert main(["generate", str(tmp_path / "set"), *options, "--workers=1"]) == 130
    assert "interrupted; nothing half written" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def heed_ctrl_c() -> None:
    """A job that a shell put into the background ignores SIGINT, and hands that on to its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal to a process group")
def test_ctrl_c_with_workers_leaves_nothing_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hexpath_data.cli", "generate", str(tmp_path / "set"), "--workers=2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "set.partial").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)  # into the start of the workers
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_a_dead_worker_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures.process import BrokenProcessPool

    def broken(self: object, *args: object, **kwargs: object) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(module.ProcessPoolExecutor, "map", broken)
    with pytest.raises(OutputError, match="a worker process died: out of memory"):
        generate(tmp_path / "set", **SMALL, workers=2)
    assert not list(tmp_path.iterdir())
