"""The Docker engine, the three images, and how a stage runs inside one of them.

`docker/images.py` builds the images with the labels that are read here; `run.py` finds them when it is called
with `--containers`; `stage.py` starts a container with the command line that `run_command` makes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

REPO = Path(__file__).resolve().parent.parent
IMAGES_TOML = REPO / "docker" / "images.toml"
LOCKS = REPO / "docker" / "locks"
LABEL_TOOLS, LABEL_SOURCE, LABEL_RUN = "hexpath.tools", "hexpath.source", "hexpath.run"
# What a stage may see of the caller's environment.
PASSED = ("HEXPATH_", "HF_", "OMP_", "PYTHONUNBUFFERED", "TRANSFORMERS_", "WANDB_", "YOLO_")
# The command replaces the shell. Beside it `cat` waits for the end of stdin, which comes when stage.py or the
# docker command dies, even by SIGKILL: then the container ends too.
WATCHED = (
    "exec 3<&0; (cat <&3; kill -TERM $$; sleep 10; kill -KILL $$) >/dev/null 2>&1 & "
    'exec 3<&-; exec "$@" </dev/null'
)


class ContainerError(Exception):
    """Something about the engine or an image; each kind has its own exit status."""

    exit_code: ClassVar[int] = 100


class NoEngineError(ContainerError):
    """There is no docker command, or no engine answers it."""

    exit_code = 101


class EnginePermissionError(ContainerError):
    """An engine is there, but not for this user."""

    exit_code = 102


class ImageMissingError(ContainerError):
    """An image was not built here."""

    exit_code = 103


class StaleImageError(ContainerError):
    """An image holds other sources than this checkout."""

    exit_code = 104


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that is there: `digest` is over its layers and environment, `tools` the versions inside."""

    name: str
    tag: str
    id: str
    digest: str
    tools: Mapping[str, str]


def docker(*args: str) -> str:
    """Run a docker command and return what it printed.

    Raises:
        NoEngineError, EnginePermissionError: as they say.
        ContainerError: anything else; the message is docker's own.
    """
    try:
        done = subprocess.run(["docker", *args], capture_output=True, text=True)
    except FileNotFoundError:
        raise NoEngineError(
            "no docker command on the PATH: install Docker Engine, or podman with podman-docker"
        ) from None
    if done.returncode == 0:
        return done.stdout.strip()
    said = " ".join(done.stderr.split())
    if "permission denied" in said.lower() and "daemon" in said.lower():
        raise EnginePermissionError(
            f"the Docker engine at {engine_address()} refuses this user: join the group 'docker', "
            "or run it rootless"
        )
    if "Cannot connect" in said or "failed to connect" in said or "error during connect" in said:
        raise NoEngineError(f"no Docker engine answers at {engine_address()}: start it, or set DOCKER_HOST")
    raise ContainerError(f"docker {args[0]}: {said or f'ended with status {done.returncode}'}")


def engine_address() -> str:
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


def check_engine() -> None:
    """Ask the engine for its version: see `docker` for what this raises."""
    docker("version", "--format", "{{.Server.Version}}")


# --- images ---------------------------------------------------------------------------------------------


def images_toml() -> dict[str, Any]:
    return tomllib.loads(IMAGES_TOML.read_text())


def tag_of(name: str) -> str:
    """`hexpath/qnn:0.1.0-2.7.0`: the versions of its first package and of its toolchain."""
    facts = images_toml()["images"][name]
    return f"hexpath/{name}:{package_version(facts['packages'][0])}-{pins(name)[facts['toolchain']]}"


def package_version(package: str) -> str:
    text = (REPO / "packages" / package / "pyproject.toml").read_text()
    return str(tomllib.loads(text)["project"]["version"])


def pins(name: str) -> dict[str, str]:
    """Name and version of every requirement in a lock; of several versions the one for the oldest Python."""
    found: dict[str, str] = {}
    for line in (LOCKS / f"{name}.txt").read_text().splitlines():
        requirement, separator, version = line.partition("==")
        if separator and not line.startswith((" ", "#")):
            found.setdefault(requirement, version.split()[0])
    return found


def source(package: str) -> str:
    """Fingerprint of a package's source."""
    digest = hashlib.sha256()
    for file in sorted((REPO / "packages" / package / "src").rglob("*.*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(str(file.relative_to(REPO)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def find_image(name: str) -> Image:
    """The image of this checkout's versions and sources.

    Raises:
        ImageMissingError: it was never built or pulled here.
        StaleImageError: it was built from other sources.
    """
    tag = tag_of(name)
    try:
        facts = json.loads(docker("image", "inspect", tag))[0]
    except (NoEngineError, EnginePermissionError):
        raise
    except ContainerError:
        raise ImageMissingError(f"there is no image {tag}: nox -s images -- {name}") from None
    labels = facts["Config"].get("Labels") or {}
    packages = images_toml()["images"][name]["packages"]
    if json.loads(labels.get(LABEL_SOURCE, "{}")) != {p: source(p) for p in packages}:
        raise StaleImageError(
            f"{tag} was built from other sources than this checkout: nox -s images -- {name}"
        )
    content = json.dumps([facts["RootFS"]["Layers"], facts["Config"].get("Env")])
    return Image(
        name=name,
        tag=tag,
        id=facts["Id"],
        digest=hashlib.sha256(content.encode()).hexdigest()[:16],
        tools=json.loads(labels[LABEL_TOOLS]),
    )


# --- running --------------------------------------------------------------------------------------------


def run_command(
    command: list[str],
    *,
    image: str,
    name: str,
    network: bool,
    mounts: Iterable[str],
    env: Mapping[str, str],
    cwd: Path,
) -> list[str]:
    """The docker command line of a stage: `cwd` is its run folder, `mounts` are read-only."""
    line = ["docker", "run", "--rm", "--init", "--interactive", "--name", name, "--shm-size", "1g"]
    line += ["--user", f"{os.getuid()}:{os.getgid()}", "--label", f"{LABEL_RUN}={cwd}"]
    line += ["--network", env.get("HEXPATH_DOCKER_NETWORK", "bridge") if network else "none"]
    line += ["--mount", f"type=bind,source={cwd},target={cwd}", "--workdir", str(cwd)]
    for path in mounts:
        line += ["--mount", f"type=bind,source={path},target={path},readonly"]
    for variable in sorted(key for key in env if key.startswith(PASSED)):
        line += ["--env", variable]  # without its value: a key appears in no process list
    line += ["--env", "HOME=/tmp", "--env", "USER=hexpath"]
    if Path("/dev/nvidiactl").exists():
        line += ["--gpus", "all"]
    return [*line, image, "sh", "-c", WATCHED, "sh", *command]


def end_containers(run: Path) -> None:
    """Kill what still works in a run folder."""
    found = docker("ps", "--quiet", "--filter", f"label={LABEL_RUN}={run}").split()
    if found:
        docker("kill", *found)
