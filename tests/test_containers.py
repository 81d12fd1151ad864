"""experiments/containers.py: what a stage's container may see, and that none outlives its stage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import containers
import mounts

REPO = Path(__file__).resolve().parent.parent


def command(env: dict[str, str], *, network: bool = False) -> list[str]:
    return containers.run_command(
        ["hexpath-data", "card"],
        image="sha256:1",
        name="n",
        network=network,
        mounts=["/d"],
        env=env,
        cwd=Path("/r"),
    )


def test_a_stage_has_no_network_unless_it_says_so() -> None:
    line = " ".join(command({}))
    assert "--network none" in line
    assert "--network bridge" in " ".join(command({}, network=True))
    assert "--network host" in " ".join(command({"HEXPATH_DOCKER_NETWORK": "host"}, network=True))


def test_a_stage_writes_into_its_run_folder_only_as_the_calling_user() -> None:
    line = " ".join(command({}))
    assert f"--user {os.getuid()}:{os.getgid()}" in line
    assert "--mount type=bind,source=/r,target=/r --workdir /r" in line
    assert "source=/d,target=/d,readonly" in line


def test_no_value_of_the_environment_is_on_the_command_line() -> None:
    line = command({"WANDB_API_KEY": "secret-key", "YOLO_OFFLINE": "true", "AWS_SECRET": "other"})
    assert "secret-key" not in " ".join(line)
    assert [line[i + 1] for i, word in enumerate(line) if word == "--env"] == [
        "WANDB_API_KEY",
        "YOLO_OFFLINE",
        "HOME=/tmp",
        "USER=hexpath",
    ]


def test_folders_that_a_dataset_names_are_mounted(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for kind in ("images", "labels"):
        (tmp_path / "far" / kind / "val").mkdir(parents=True)
    data = tmp_path / "mine" / "data.yaml"
    data.write_text(f"train: images/train\nval: [{tmp_path}/far/images/val]\nnames: [a]\n")
    found = mounts.mounts_of(str(data))
    assert str(tmp_path / "mine") in found
    assert str(tmp_path / "far") in found
    assert str(REPO / "experiments") in found


@pytest.fixture
def image() -> str:
    """An image that is here; else the test is skipped."""
    try:
        containers.check_engine()
        return containers.docker("image", "inspect", "--format", "{{.Id}}", "hexpath/qnn:latest")
    except containers.ContainerError as error:
        pytest.skip(f"needs an engine and hexpath/qnn: {error}")


def stage(run: Path, image: str, *words: str) -> subprocess.Popen[str]:
    env = {**os.environ, "HEXPATH_IMAGES": json.dumps({"qnn": image}), "HEXPATH_MOUNTS": "[]"}
    line = [sys.executable, str(REPO / "experiments" / "stage.py"), "x/y", "--image", "qnn", "--", *words]
    return subprocess.Popen(line, cwd=run, env=env, stdout=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)


def heed_ctrl_c() -> None:
    """A shell that put the tests into the background has them ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def working(run: Path) -> str:
    return containers.docker("ps", "--quiet", "--filter", f"label={containers.LABEL_RUN}={run}")


def test_a_stage_in_its_image(tmp_path: Path, image: str) -> None:
    script = "id -u; touch made; ls /sys/class/net; exit 42"
    process = stage(tmp_path, image, "sh", "-c", script)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 42
    assert (tmp_path / "made").stat().st_uid == os.getuid()
    assert (tmp_path / "logs" / "x-y.log").read_text().splitlines()[1:] == [str(os.getuid()), "lo"]
    assert '"code": 42' in out


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_container_outlives_its_stage(how: signal.Signals, tmp_path: Path, image: str) -> None:
    process = stage(tmp_path, image, "sleep", "300")
    deadline = time.monotonic() + 30
    while not working(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert working(tmp_path)
    process.send_signal(how)
    process.communicate(timeout=30)
    while working(tmp_path) and time.monotonic() < deadline + 30:
        time.sleep(0.1)
    assert working(tmp_path) == ""
