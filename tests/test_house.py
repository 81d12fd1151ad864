"""What holds the house together: versions, changelogs, locks, licences, and what no file may contain."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
PACKAGES = sorted(p.parent.name for p in (REPO / "packages").glob("*/pyproject.toml"))
LOCKS = sorted((REPO / "docker" / "locks").glob("*.txt"))
IMAGES = tomllib.loads((REPO / "docker" / "images.toml").read_text())["images"]


def project(package: str) -> dict:
    return tomllib.loads((REPO / "packages" / package / "pyproject.toml").read_text())["project"]


def tracked() -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=True
    ).stdout
    return [REPO / name for name in listing.split("\0") if name and (REPO / name).is_file()]


def test_the_house_has_its_four_packages() -> None:
    assert PACKAGES == ["data", "deploy", "models", "quant"]


@pytest.mark.parametrize("package", PACKAGES)
def test_version_is_static_and_the_newest_heading_of_the_changelog(package: str) -> None:
    newest = re.search(r"^## (\S+)", (REPO / "packages" / package / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert project(package)["version"] == newest[1]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_depends_on_another(package: str) -> None:
    meta = project(package)
    declared = meta["dependencies"] + [
        d for extra in meta.get("optional-dependencies", {}).values() for d in extra
    ]
    assert [d for d in declared if d.startswith("hexpath") and not d.startswith(f"hexpath-{package}")] == []


@pytest.mark.parametrize(
    ("package", "licence"),
    [
        ("data", "Apache-2.0"),
        ("quant", "Apache-2.0"),
        ("deploy", "Apache-2.0"),
        ("models", "AGPL-3.0-or-later"),
    ],
)
def test_licences(package: str, licence: str) -> None:
    assert project(package)["license"] == licence
    text = (REPO / "packages" / package / "LICENSE").read_text()
    assert ("GNU AFFERO" if licence.startswith("AGPL") else "Apache License") in text


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: p.stem)
def test_every_line_of_a_lock_has_a_hash_and_no_index(lock: Path) -> None:
    text = lock.read_text()
    pins = re.findall(r"^([A-Za-z0-9._-]+)==\S+(.*?)(?=^[A-Za-z0-9]|\Z)", text, re.MULTILINE | re.DOTALL)
    assert len(pins) > 5
    assert [name for name, body in pins if "--hash=sha256:" not in body] == []
    assert not re.search(r"https?://|--index-url|--find-links", text)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: p.stem)
def test_no_lock_is_older_than_its_input(lock: Path) -> None:
    recorded = re.search(r"^# inputs: (\w+)$", lock.read_text(), re.MULTILINE)
    assert recorded is not None, "made by hand? run: nox -s lock"
    inputs = [lock.with_suffix(".in")] if lock.stem not in IMAGES else []
    packages = {"hexpath": ["data", "models", "quant", "deploy"], "lint": []}
    for package in packages[lock.stem] if lock.stem in packages else IMAGES[lock.stem]["packages"]:
        inputs.append(REPO / "packages" / package / "pyproject.toml")
    assert recorded[1] == requirements_hash(inputs), f"{lock.name} is older than its input: run nox -s lock"


def pins(lock: Path) -> set[str]:
    """Every `name==version ; marker` of a lock."""
    lines = re.findall(r"^[A-Za-z0-9._-]+==[^\\\n]+", lock.read_text(), re.MULTILINE)
    return {line.split(" ;")[0].strip() for line in lines}


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_the_versions_of_the_local_environment(image: str) -> None:
    assert pins(REPO / "docker" / "locks" / f"{image}.txt") <= pins(REPO / "docker" / "locks" / "hexpath.txt")


def test_the_qnn_image_has_no_torch() -> None:
    names = {pin.partition("==")[0] for pin in pins(REPO / "docker" / "locks" / "qnn.txt")}
    assert names & {"torch", "torchvision", "ultralytics", "aimet-torch", "opencv-python"} == set()


def test_there_is_a_lock_for_every_image() -> None:
    assert {lock.stem for lock in LOCKS} == {"hexpath", "lint", *IMAGES}


def requirements_hash(inputs: list[Path]) -> str:
    """As noxfile.py writes it: over what is declared, not over comments and version numbers."""
    declared = []
    for path in inputs:
        if path.suffix == ".toml":
            meta = tomllib.loads(path.read_text())["project"]
            declared += meta["dependencies"] + [
                f"{k}:{v}" for k, v in sorted(meta.get("optional-dependencies", {}).items())
            ]
        else:
            declared += [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    return hashlib.sha256("\n".join(filter(None, declared)).encode()).hexdigest()[:16]


def test_no_large_or_fetched_files() -> None:
    large = [str(p.relative_to(REPO)) for p in tracked() if p.stat().st_size > 1_000_000]
    weights = [
        str(p.relative_to(REPO))
        for p in tracked()
        if p.suffix in {".pt", ".pth", ".onnx", ".dlc", ".safetensors", ".bin"}
    ]
    assert large + weights == []


def test_experiments_are_complete() -> None:
    for folder in (REPO / "experiments").glob("exp_*"):
        assert {"README.md", "Snakefile", "config.yaml", "full.yaml"} <= {p.name for p in folder.iterdir()}, (
            folder
        )


def test_the_index_lists_every_experiment() -> None:
    index = (REPO / "experiments" / "README.md").read_text()
    assert [p.name for p in (REPO / "experiments").glob("exp_*") if p.name not in index] == []
